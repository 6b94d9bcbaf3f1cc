//! What a container has used, as `events --stats` prints it: runc's document, from the files of cgroup v2.

use super::Cgroup;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs};

impl Cgroup {
    /// cpu times in nanoseconds, memory in bytes, block I/O in bytes and operations; zeroes where a controller is missing.
    pub fn stats(&self) -> Value {
        json!({
            "cpu": self.cpu(),
            "memory": self.memory(),
            "pids": pids(self.number("pids.current"), self.number("pids.max")),
            "blkio": self.block_io(),
            "hugetlb": self.hugetlb(),
            "network_interfaces": null,
        })
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// `key value` lines.
    fn flat(&self, file: &str) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    }

    fn pressure(&self, file: &str) -> Value {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let fields = |line: &str| -> Option<(String, Value)> {
            let (kind, rest) = line.split_once(' ')?;
            let field = |word: &str| {
                let (name, value) = word.split_once('=')?;
                Some((name.to_owned(), json!(value.parse::<f64>().ok()?)))
            };
            Some((kind.to_owned(), Value::Object(rest.split(' ').filter_map(field).collect())))
        };
        Value::Object(text.lines().filter_map(fields).collect::<Map<_, _>>())
    }

    fn cpu(&self) -> Value {
        let stat = self.flat("cpu.stat");
        let get = |key: &str| stat.get(key).copied().unwrap_or(0);
        json!({
            "usage": {
                "total": get("usage_usec") * 1000, "user": get("user_usec") * 1000, "kernel": get("system_usec") * 1000,
            },
            "throttling": {
                "periods": get("nr_periods"), "throttledPeriods": get("nr_throttled"),
                "throttledTime": get("throttled_usec") * 1000,
            },
            "psi": self.pressure("cpu.pressure"),
        })
    }

    fn memory(&self) -> Value {
        let stat = self.flat("memory.stat");
        let events = self.flat("memory.events");
        let usage = |current: &str, max: &str| {
            json!({
                "usage": self.number(current).unwrap_or(0),
                "limit": self.number(max).unwrap_or(u64::MAX),
                "max": self.number(&current.replace("current", "peak")).unwrap_or(0),
                "failcnt": events.get("max").copied().unwrap_or(0),
            })
        };
        // Together, as cgroup v1 counts them and runc's document has them.
        let (own, mut swap) =
            (usage("memory.current", "memory.max"), usage("memory.swap.current", "memory.swap.max"));
        for (field, none) in [("usage", None), ("limit", Some(u64::MAX))] {
            let (memory, alone) = (own[field].as_u64().unwrap_or(0), swap[field].as_u64().unwrap_or(0));
            swap[field] = json!(if none == Some(alone) { alone } else { alone.saturating_add(memory) });
        }
        json!({
            "cache": stat.get("file").copied().unwrap_or(0),
            "usage": own,
            "swap": swap,
            "raw": stat,
            "psi": self.pressure("memory.pressure"),
        })
    }

    fn block_io(&self) -> Value {
        let text = fs::read_to_string(self.path.join("io.stat")).unwrap_or_default();
        let (mut bytes, mut operations) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let mut words = line.split(' ');
            let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
                continue;
            };
            let device = |op: &str, value: &str| {
                json!({
                    "major": major.parse::<u64>().unwrap_or(0), "minor": minor.parse::<u64>().unwrap_or(0),
                    "op": op, "value": value.parse::<u64>().unwrap_or(0),
                })
            };
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                match name {
                    "rbytes" => bytes.push(device("Read", value)),
                    "wbytes" => bytes.push(device("Write", value)),
                    "rios" => operations.push(device("Read", value)),
                    "wios" => operations.push(device("Write", value)),
                    _ => {}
                }
            }
        }
        json!({
            "ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations, "psi": self.pressure("io.pressure"),
        })
    }

    fn hugetlb(&self) -> Value {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let size = |name: String| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?.to_owned();
            (!size.contains('.')).then_some(size)
        };
        let usage = |size: String| {
            let used = self.number(&format!("hugetlb.{size}.current")).unwrap_or(0);
            let failures = self.flat(&format!("hugetlb.{size}.events")).get("max").copied().unwrap_or(0);
            (size, json!({ "usage": used, "failcnt": failures }))
        };
        Value::Object(names.filter_map(size).map(usage).collect())
    }
}

fn pids(current: Option<u64>, limit: Option<u64>) -> Value {
    json!({ "current": current.unwrap_or(0), "limit": limit.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_counted_with_memory_and_no_limit_is_none() {
        let dir = tempfile::tempdir().expect("made");
        let stats = |files: &[(&str, &str)]| {
            for (name, text) in files {
                fs::write(dir.path().join(name), text).expect("written");
            }
            Cgroup::at(dir.path()).stats()["memory"]["swap"].clone()
        };
        let first = [("memory.current", "100\n"), ("memory.max", "1000\n"), ("memory.swap.current", "20\n")];
        let swap = stats(&first);
        assert_eq!((&swap["usage"], &swap["limit"]), (&json!(120), &json!(u64::MAX)));
        let swap = stats(&[("memory.swap.max", "500\n")]);
        assert_eq!((&swap["usage"], &swap["limit"]), (&json!(120), &json!(1500)));
        let swap = stats(&[("memory.swap.max", "max\n")]);
        assert_eq!(swap["limit"], json!(u64::MAX));
    }
}
