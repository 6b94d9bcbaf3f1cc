//! `update ID`: other limits for a container; from flags, or as `linux.resources` from a file.

use super::{io_error, refused};
use clap::Args;
use runtime::container::{self, ContainerError};
use runtime_spec::{ContainerId, oci::LinuxResources};
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub struct UpdateArgs {
    id: ContainerId,
    /// File with linux.resources, or - for standard input; other flags are not looked at
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight for block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Microseconds of a period of --cpu-quota
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 is no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Share of CPU time, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// 1: run only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// CPUs to run on, as in 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Bytes of memory; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Bytes of memory that are left alone under pressure
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Number of processes; -1 is no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

pub fn run(root: &Path, args: &UpdateArgs) -> Result<u8, ContainerError> {
    let resources = match &args.resources {
        Some(path) => from_file(path)?,
        None => from_flags(args)?,
    };
    container::update(root, &args.id, &resources).map(|()| 0)
}

fn from_file(path: &Path) -> Result<LinuxResources, ContainerError> {
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).map(|_| text)
    } else {
        fs::read(path)
    };
    let text = text.map_err(io_error("read", path))?;
    serde_json::from_slice(&text).map_err(|err| io_error("parse", path)(io::Error::other(err)))
}

fn from_flags(args: &UpdateArgs) -> Result<LinuxResources, ContainerError> {
    let object = |fields: &[(&str, Option<Value>)]| -> Value {
        let given = fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        Value::Object(given.collect::<Map<_, _>>())
    };
    let number = |value: Option<i64>| value.map(|value| json!(value));
    let natural = |value: Option<u64>| value.map(|value| json!(value));
    let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
    let cpu = object(&[
        ("shares", natural(args.cpu_share)),
        ("quota", number(args.cpu_quota)),
        ("period", natural(args.cpu_period)),
        ("burst", natural(args.cpu_burst)),
        ("idle", number(args.cpu_idle)),
        ("cpus", text(&args.cpuset_cpus)),
        ("mems", text(&args.cpuset_mems)),
    ]);
    let memory = object(&[
        ("limit", number(args.memory)),
        ("reservation", number(args.memory_reservation)),
        ("swap", number(args.memory_swap)),
    ]);
    let mut resources = json!({ "cpu": cpu, "memory": memory });
    if let Some(limit) = args.pids_limit {
        resources["pids"] = json!({ "limit": limit });
    }
    if let Some(weight) = args.blkio_weight {
        resources["blockIO"] = json!({ "weight": weight });
    }
    serde_json::from_value(resources).map_err(|err| refused(&err.to_string()))
}
