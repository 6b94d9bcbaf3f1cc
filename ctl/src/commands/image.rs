//! `ctl image ls|pull|import|rm`: images of this host, through its agent.

use crate::{
    error::{CtlError, failed},
    host::agent::Agent,
    output::{
        print,
        table::{Options, Table},
    },
};
use agent_protocol::{ImageInfo, LocalReply, LocalRequest, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use std::{collections::HashMap, io::IsTerminal, path::PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory of the host's agent
    #[arg(long, global = true, default_value = "/run/wherry", value_name = "DIR")]
    run_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List images
    Ls,
    /// Fetch an image from its registry
    Pull { reference: String },
    /// Take images from an OCI layout or a `docker save` archive
    Import {
        path: PathBuf,
        /// Name to give the image
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove an image that no container uses
    Rm { reference: String },
}

pub fn run(args: &Args) -> Result<(), CtlError> {
    let request = match &args.command {
        Command::Ls => LocalRequest::Images,
        Command::Pull { reference } => LocalRequest::Pull { reference: reference.clone() },
        Command::Import { path, name } => {
            let path = path.canonicalize().map_err(crate::error::file("find", path))?;
            LocalRequest::Import { path, name: name.clone() }
        }
        Command::Rm { reference } => LocalRequest::RemoveImage { reference: reference.clone() },
    };
    let mut agent = Agent::ask(&args.run_dir, &request)?;
    let mut bars = Bars::default();
    loop {
        match agent.reply()? {
            LocalReply::Images(images) => return print(&table(&images)),
            LocalReply::Progress(progress) => bars.show(&progress),
            LocalReply::Done(line) => {
                bars.clear();
                return print(&format!("{line}\n"));
            }
            LocalReply::Failed(why) => {
                bars.clear();
                return Err(failed(why));
            }
            LocalReply::Pods(_) => return Err(failed("the agent answered something else than was asked")),
        }
    }
}

fn table(images: &[ImageInfo]) -> String {
    let rows: Vec<_> = images
        .iter()
        .flat_map(|image| {
            let size = indicatif::HumanBytes(image.size_bytes).to_string();
            let digest: String = image.digest.chars().take(19).collect();
            let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
            names.into_iter().map(move |name| json!({ "cells": [name, digest, size] }))
        })
        .collect();
    let columns = ["Image", "Digest", "Size"].map(|name| json!({ "name": name }));
    Table::default().render(&json!({ "columnDefinitions": columns, "rows": rows }), Options::for_stdout())
}

/// A bar for each layer on a terminal, else a line for each change of state.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    states: HashMap<String, String>,
}

impl Bars {
    fn show(&mut self, progress: &PullProgress) {
        let short: String = progress.item.trim_start_matches("sha256:").chars().take(12).collect();
        if !std::io::stderr().is_terminal() {
            if self.states.insert(progress.item.clone(), progress.state.clone()).as_ref()
                != Some(&progress.state)
            {
                eprintln!("{short} {}", progress.state);
            }
            return;
        }
        let bar = self.bars.entry(progress.item.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.all.add(ProgressBar::new(0).with_style(style).with_prefix(short))
        });
        bar.set_length(progress.bytes_total.max(progress.bytes));
        bar.set_position(progress.bytes);
        bar.set_message(progress.state.clone());
    }

    fn clear(&self) {
        // Bars are an ornament: a terminal that cannot be written to loses nothing else.
        let _ = self.all.clear();
    }
}
