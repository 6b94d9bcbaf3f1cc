//! The words of the command line, and which command they reach.

use crate::{client::Client, commands, error::CtlError, kubeconfig::Kubeconfig};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(
    name = "ctl",
    version,
    about = "Wherry: a container orchestrator for Linux hosts",
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Which cluster, as whom [default: $KUBECONFIG, /etc/wherry/kubeconfig, ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub context: Option<String>,
    /// Namespace of the request
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a one-node cluster on this host
    Up(commands::up::Args),
    /// Stop the pods and daemons of this host
    Down(commands::down::Args),
    /// Make objects be as files say
    Apply(commands::apply::Args),
    /// Create objects from files; fails where one exists
    Create(commands::create::Args),
    /// Show objects
    Get(commands::get::Args),
    /// Show one object in full, with its events
    Describe(commands::describe::Args),
    /// Delete objects
    Delete(commands::delete::Args),
    /// Print what a container wrote
    Logs(commands::logs::Args),
    /// Run a command in a container
    Exec(commands::exec::Args),
    /// Set the number of replicas
    Scale(commands::scale::Args),
    /// Follow and steer roll-outs
    Rollout(commands::rollout::Args),
    /// Images of this host
    Image(commands::image::Args),
    /// Show the versions of client and server
    Version(commands::version::Args),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

/// What commands that talk to the API server need.
pub struct Session {
    pub client: Client,
    pub namespace: String,
}

impl Global {
    pub fn session(&self) -> Result<Session, CtlError> {
        let path = Kubeconfig::find(self.kubeconfig.as_deref());
        if !path.exists() {
            return Err(CtlError::Usage(format!(
                "there is no kubeconfig at {}; `ctl up` writes one, --kubeconfig names another",
                path.display()
            )));
        }
        let config = Kubeconfig::load(&path, self.context.as_deref())?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.namespace.clone());
        Ok(Session { client: Client::new(&config)?, namespace })
    }
}

pub fn run(cli: Cli) -> Result<(), CtlError> {
    let session = || cli.global.session();
    match &cli.command {
        Command::Up(args) => commands::up::run(args, cli.global.kubeconfig.as_deref()),
        Command::Down(args) => commands::down::run(args),
        Command::Apply(args) => commands::apply::run(args, &session()?),
        Command::Create(args) => commands::create::run(args, &session()?),
        Command::Get(args) => commands::get::run(args, &session()?),
        Command::Describe(args) => commands::describe::run(args, &session()?),
        Command::Delete(args) => commands::delete::run(args, &session()?),
        Command::Logs(args) => commands::logs::run(args, &session()?),
        Command::Exec(args) => commands::exec::run(args, &session()?),
        Command::Scale(args) => commands::scale::run(args, &session()?),
        Command::Rollout(args) => commands::rollout::run(args, &session()?),
        Command::Image(args) => commands::image::run(args),
        Command::Version(args) => commands::version::run(args, session().ok()),
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "ctl", &mut std::io::stdout());
            Ok(())
        }
    }
}
