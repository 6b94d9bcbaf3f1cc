//! `ctl image ls|pull|import|export|rm|prune|inspect`: images of this host, through its agent.

use crate::{
    error::{CtlError, failed},
    host::agent::Agent,
    output::{
        print,
        table::{Options, Table},
    },
};
use agent_protocol::{ImageDetails, ImageFormat, ImageInfo, LocalReply, LocalRequest, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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
    Ls {
        /// Only the digests
        #[arg(short, long, conflicts_with = "output")]
        quiet: bool,
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Output>,
    },
    /// Fetch an image from its registry
    Pull { reference: String },
    /// Take images from an OCI layout or a `docker save` archive, also packed with gzip or zstd
    Import {
        /// Archive or directory; - for standard input
        path: PathBuf,
        /// Name to give the image
        #[arg(long)]
        name: Option<String>,
    },
    /// Write an image into an archive that `ctl image import`, docker, podman and skopeo take
    ///
    /// Layers are kept unpacked and packed again here: the image in the archive has the same content and configuration, but other digests.
    Export {
        /// Name or digest
        reference: String,
        /// File to write; - for standard output
        path: PathBuf,
        #[arg(long, value_enum, default_value_t = Format::Oci)]
        format: Format,
    },
    /// Remove an image that no pod uses
    Rm {
        /// Name or digest
        reference: String,
    },
    /// Remove images without a name that no pod uses
    Prune {
        /// Also those with a name
        #[arg(long)]
        all: bool,
    },
    /// Print what is known about an image, as JSON
    Inspect {
        /// Name or digest
        reference: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// An OCI image layout in a tar archive
    Oci,
    /// What `docker save` writes
    Docker,
}

pub fn run(args: &Args) -> Result<(), CtlError> {
    let (request, from_stdin) = match &args.command {
        Command::Ls { .. } => (LocalRequest::Images, false),
        Command::Pull { reference } => (LocalRequest::Pull { reference: reference.clone() }, false),
        Command::Import { path, name } if path.as_os_str() == "-" => {
            (LocalRequest::ImportStream { name: name.clone() }, true)
        }
        Command::Import { path, name } => {
            let path = path.canonicalize().map_err(crate::error::file("find", path))?;
            (LocalRequest::Import { path, name: name.clone() }, false)
        }
        Command::Export { reference, path, format } => {
            return export(&args.run_dir, reference, path, *format);
        }
        Command::Rm { reference } => (LocalRequest::RemoveImage { reference: reference.clone() }, false),
        Command::Prune { all } => (LocalRequest::PruneImages { all: *all }, false),
        Command::Inspect { reference } => {
            (LocalRequest::InspectImage { reference: reference.clone() }, false)
        }
    };
    let mut agent = Agent::ask(&args.run_dir, &request)?;
    if from_stdin {
        agent.send(std::io::stdin().lock())?;
    }
    let mut bars = Bars::default();
    loop {
        match agent.reply()? {
            LocalReply::Images(images) => return print(&listing(&images, &args.command)),
            LocalReply::Progress(progress) => bars.show(&progress),
            LocalReply::Image(details) => return print(&format!("{:#}\n", inspected(&details))),
            LocalReply::Pruned { removed, freed_bytes } => return print(&pruned(&removed, freed_bytes)),
            LocalReply::Done(line) => {
                bars.clear();
                return print(&format!("{line}\n"));
            }
            LocalReply::Failed(why) => {
                bars.clear();
                return Err(failed(why));
            }
            LocalReply::Pods(_) | LocalReply::Data(_) => {
                return Err(failed("the agent answered something else than was asked"));
            }
        }
    }
}

/// Writes the archive beside `path` and renames it when it is whole.
fn export(run_dir: &Path, reference: &str, path: &Path, format: Format) -> Result<(), CtlError> {
    let format = match format {
        Format::Oci => ImageFormat::Oci,
        Format::Docker => ImageFormat::Docker,
    };
    let mut agent =
        Agent::ask(run_dir, &LocalRequest::ExportImage { reference: reference.to_owned(), format })?;
    if path.as_os_str() == "-" {
        return receive(&mut agent, std::io::stdout().lock(), path).map(drop);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(crate::error::file("write in", dir))?;
    let line = receive(&mut agent, &mut file, path)?;
    file.as_file().sync_all().map_err(crate::error::file("write", path))?;
    file.persist(path).map_err(|err| crate::error::file("write", path)(err.error))?;
    print(&format!("{line}\n"))
}

/// What the agent says at the end.
fn receive(agent: &mut Agent, mut out: impl Write, path: &Path) -> Result<String, CtlError> {
    loop {
        match agent.reply()? {
            LocalReply::Data(bytes) => out.write_all(&bytes).map_err(crate::error::file("write", path))?,
            LocalReply::Done(line) => {
                return out.flush().map(|()| line).map_err(crate::error::file("write", path));
            }
            LocalReply::Failed(why) => return Err(failed(why)),
            _ => return Err(failed("the agent answered something else than was asked")),
        }
    }
}

fn listing(images: &[ImageInfo], command: &Command) -> String {
    match command {
        Command::Ls { quiet: true, .. } => images.iter().map(|image| format!("{}\n", image.digest)).collect(),
        Command::Ls { output: Some(Output::Json), .. } => {
            format!("{:#}\n", images.iter().map(summary).collect::<Value>())
        }
        _ => table(images),
    }
}

fn summary(image: &ImageInfo) -> Value {
    json!({
        "names": image.names,
        "digest": image.digest,
        "sizeBytes": image.size_bytes,
        "created": (image.created_s != 0).then(|| rfc3339(image.created_s)),
    })
}

fn inspected(details: &ImageDetails) -> Value {
    let mut value = summary(&details.info);
    let layer = |(digest, bytes): &(String, u64)| json!({ "digest": digest, "unpackedBytes": bytes });
    value["layers"] = details.layers.iter().map(layer).collect();
    value["lastUsed"] = json!(details.last_used_s.and_then(|at| i64::try_from(at).ok()).map(rfc3339));
    value["usedBy"] = json!(details.used_by);
    value["config"] = serde_json::from_str(&details.config).unwrap_or_default();
    value
}

fn rfc3339(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

fn pruned(removed: &[(String, Vec<String>)], freed_bytes: u64) -> String {
    let line = |(digest, names): &(String, Vec<String>)| match names.join(" ") {
        names if names.is_empty() => format!("removed {digest}\n"),
        names => format!("removed {names} {digest}\n"),
    };
    let lines: String = removed.iter().map(line).collect();
    format!("{lines}freed {}\n", indicatif::HumanBytes(freed_bytes))
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
