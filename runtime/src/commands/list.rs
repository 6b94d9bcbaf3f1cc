//! `list`, `state` and `ps`.

use super::{io_error, print, refused, time};
use clap::Args;
use runtime::container::{self, ContainerError, View};
use runtime_spec::ContainerId;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

#[derive(Debug, Args)]
pub struct ListArgs {
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    id: ContainerId,
    /// For ps(1), whose lines about the container's processes are shown
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "-ef")]
    options: Vec<String>,
}

/// What runc's document has beyond that of the specification.
fn document(view: &View) -> Value {
    let record = &view.record;
    let mut document = record.oci(view.status).to_json();
    // Also of one that has stopped, whose state for hooks has none.
    document["pid"] = json!(record.oci(view.status).pid);
    document["rootfs"] = json!(record.root);
    document["created"] = json!(time(record.created_ns));
    document["owner"] = json!(owner(record.owner));
    document
}

/// The user's name, or the number of one that has none.
fn owner(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

pub fn state(root: &Path, id: &ContainerId) -> Result<u8, ContainerError> {
    print(&format!("{:#}\n", document(&container::state(root, id)?)))
}

pub fn list(root: &Path, args: &ListArgs) -> Result<u8, ContainerError> {
    let views = container::list(root)?;
    if args.quiet {
        return print(&views.iter().map(|view| format!("{}\n", view.record.id)).collect::<String>());
    }
    if args.format == "json" {
        return print(&format!("{}\n", Value::from(views.iter().map(document).collect::<Vec<_>>())));
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = views.iter().map(|view| {
        let record = &view.record;
        let (pid, status) = (record.oci(view.status).pid.to_string(), view.status.to_string());
        let bundle = record.bundle.display().to_string();
        [record.id.to_string(), pid, status, bundle, time(record.created_ns), owner(record.owner)]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    // With three blanks between, no column is narrower than runc's.
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(9);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    print(&rows.iter().map(line).collect::<String>())
}

/// ps(1)'s own table with only the container's processes, or their pids: an empty list where runc prints `null`, as `list` does.
pub fn ps(root: &Path, args: &PsArgs) -> Result<u8, ContainerError> {
    let pids = container::state(root, &args.id)?.record.processes();
    if args.format == "json" {
        return print(&format!("{}\n", json!(pids)));
    }
    let output = Command::new("ps")
        .args(&args.options)
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("run", Path::new("ps")))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(refused(&format!("ps: {}: {}", output.status, why.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column =
        column.ok_or_else(|| refused("couldn't find PID field in ps output: its options leave it out"))?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let shown: String =
        std::iter::once(head).chain(lines.filter(ours)).map(|line| format!("{line}\n")).collect();
    print(&shown)
}
