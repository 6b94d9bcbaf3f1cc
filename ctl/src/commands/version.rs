//! `ctl version`.

use crate::{
    cli::Session,
    error::CtlError,
    output::{note, print},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this program's version
    #[arg(long)]
    client: bool,
}

pub fn run(args: &Args, session: Option<Session>) -> Result<(), CtlError> {
    print(&format!("Client: {}\n", env!("CARGO_PKG_VERSION")))?;
    match session.filter(|_| !args.client).map(|session| session.client.get("/version")) {
        Some(Ok(version)) => {
            print(&format!("Server: {}\n", version["gitVersion"].as_str().unwrap_or("unknown")))
        }
        Some(Err(err)) => {
            note(&format!("Server: {err}"));
            Err(CtlError::Exit(err.exit_code()))
        }
        None => Ok(()),
    }
}
