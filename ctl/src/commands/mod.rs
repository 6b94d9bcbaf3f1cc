//! One file per command: its arguments, its `run`, its exit codes.

pub mod apply;
pub mod create;
pub mod delete;
pub mod describe;
pub mod down;
pub mod exec;
pub mod get;
pub mod image;
pub mod logs;
pub mod rollout;
pub mod scale;
pub mod up;
pub mod version;

use std::path::PathBuf;

/// Files that hold objects.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Files or directories with YAML or JSON; `-` is standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
}
