//! `update ID`: other limits for a container; from flags, or as `linux.resources` from a file.

use super::{io_error, refused};
use clap::Args;
use runtime::{
    container::{self, ContainerError},
    warnings::unknown_field,
};
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
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    blkio_weight: Option<u16>,
    /// Microseconds of a period of --cpu-quota
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 is no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_burst: Option<u64>,
    /// Share of CPU time, 2 to 262144
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true)]
    cpu_share: Option<u64>,
    /// 1: run only when nothing else wants to
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// CPUs to run on, as in 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Bytes of memory, as in 64m; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_bytes)]
    memory: Option<i64>,
    /// Bytes of memory that are left alone under pressure
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_bytes)]
    memory_swap: Option<i64>,
    /// Number of processes; -1 is no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Refused: cgroup v2 has no share of real time
    #[arg(long, hide = true, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// As --cpu-rt-runtime
    #[arg(long, hide = true, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_period: Option<u64>,
    /// Taken for the sake of callers of runc, which does nothing about it either
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    /// As --kernel-memory
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// Refused, as linux.intelRdt is
    #[arg(long, hide = true, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused, as linux.intelRdt is
    #[arg(long, hide = true, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

pub fn run(root: &Path, args: &UpdateArgs) -> Result<u8, ContainerError> {
    for (flag, given) in
        [("--l3-cache-schema", &args.l3_cache_schema), ("--mem-bw-schema", &args.mem_bw_schema)]
    {
        if given.as_ref().is_some_and(|schema| !schema.is_empty()) {
            return Err(refused(&format!("{flag}: linux.intelRdt is not supported")));
        }
    }
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
    Ok(runtime_spec::parse(path, &text, &mut unknown_field(path))?)
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
        ("realtimeRuntime", number(args.cpu_rt_runtime)),
        ("realtimePeriod", natural(args.cpu_rt_period)),
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

/// `67108864`, `65536k`, `64m`, `64MiB`, `1.5g`, `-1`: units are powers of 1024, as everywhere about memory; part of a byte is none.
fn parse_bytes(text: &str) -> Result<i64, String> {
    let unit =
        text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '-' || letter == '.');
    let number = &text[..text.len() - unit.len()];
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1 << 40),
        "p" => Some(1 << 50),
        _ => None,
    };
    let bytes = factor.and_then(|factor: i64| match number.split_once('.') {
        None => number.parse::<i64>().ok()?.checked_mul(factor),
        Some((whole, part))
            if whole.starts_with(|digit: char| digit.is_ascii_digit()) && !part.is_empty() =>
        {
            // Beyond 2^53 a float would be another number.
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            (bytes < (1u64 << 53) as f64).then_some(bytes as i64)
        }
        Some(_) => None,
    });
    bytes.filter(|&bytes| bytes >= -1).ok_or_else(|| "give bytes, as in 67108864 or 64m, or -1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units() {
        for (text, bytes) in [
            ("5", 5),
            ("-1", -1),
            ("2k", 2048),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1GB", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            ("1p", 1 << 50),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-2", "1.", ".5", "-1.5", "1.5.5", "9999999999t", "8192.5t", "5x", "1 000"] {
            assert!(parse_bytes(text).is_err(), "{text:?}");
        }
    }
}
