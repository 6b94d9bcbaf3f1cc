//! `linux.resources` as files of cgroup v2; config-linux.md, "Control groups", and the kernel's cgroup-v2.rst.

use super::{CgroupError, dbus::Value};
use cgroups_rs::fs::{
    MaxValue, cgroup::Cgroup as Controllers, cpu::CpuController, hierarchies, memory::MemController,
    pid::PidController,
};
use runtime_spec::oci::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};
use std::path::Path;

/// One value of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    CpuWeight(u64),
    /// `period_us` absent: as it is.
    CpuMax {
        quota_us: Option<i64>,
        period_us: Option<u64>,
    },
    MemoryMax(Option<u64>),
    MemoryLow(Option<u64>),
    SwapMax(Option<u64>),
    PidsMax(Option<u64>),
    /// 10 to 1000, of all devices or of one by its numbers.
    IoWeight {
        device: Option<(i64, i64)>,
        weight: u16,
    },
    /// Files whose text is as config.json has it.
    Plain {
        controller: &'static str,
        file: String,
        field: &'static str,
        value: String,
    },
}

/// Everything that `resources` asks for, in the order in which it can be written.
pub fn of(resources: &LinuxResources) -> Result<Vec<Limit>, CgroupError> {
    refuse_unsupported(resources)?;
    let mut limits = Vec::new();
    let plain = |controller, file: &str, field, value: String| Limit::Plain {
        controller,
        file: file.to_owned(),
        field,
        value,
    };
    if let Some(cpu) = resources.cpu() {
        // What is idle has no weight.
        let shares = cpu.shares().filter(|&shares| shares > 0 && cpu.idle() != Some(1));
        limits.extend(shares.map(|shares| Limit::CpuWeight(weight(shares))));
        limits.extend(cpu.idle().map(|idle| plain("cpu", "cpu.idle", "cpu.idle", idle.to_string())));
        let quota = cpu.quota().filter(|&quota| quota != 0);
        let period = cpu.period().filter(|&period| period != 0);
        if quota.is_some() || period.is_some() {
            limits.push(Limit::CpuMax { quota_us: quota, period_us: period });
        }
        limits.extend(cpu.burst().map(|us| plain("cpu", "cpu.max.burst", "cpu.burst", us.to_string())));
        let listed = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
        limits.extend(listed(cpu.cpus()).map(|list| plain("cpuset", "cpuset.cpus", "cpu.cpus", list)));
        limits.extend(listed(cpu.mems()).map(|list| plain("cpuset", "cpuset.mems", "cpu.mems", list)));
    }
    if let Some(memory) = resources.memory() {
        let asked = |bytes: Option<i64>| bytes.filter(|&bytes| bytes != 0);
        limits.extend(asked(memory.limit()).map(|bytes| Limit::MemoryMax(max_value(bytes))));
        limits.extend(asked(memory.reservation()).map(|bytes| Limit::MemoryLow(max_value(bytes))));
        match asked(memory.swap()) {
            Some(both) => limits.push(Limit::SwapMax(swap(both, memory.limit())?)),
            // No limit of memory is none of swap either, as under runc.
            None if memory.limit() == Some(-1) => limits.push(Limit::SwapMax(None)),
            None => {}
        }
    }
    limits.extend(
        resources
            .pids()
            .as_ref()
            .filter(|pids| pids.limit() != 0)
            .map(|pids| Limit::PidsMax(max_value(pids.limit()))),
    );
    limits.extend(resources.block_io().iter().flat_map(block_io));
    for limit in resources.hugepage_limits().iter().flatten() {
        for file in ["max", "rsvd.max"] {
            let file = format!("hugetlb.{}.{file}", limit.page_size());
            limits.push(plain("hugetlb", &file, "hugepageLimits", limit.limit().to_string()));
        }
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        let max = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        let (handles, objects) = (max(rdma.hca_handles()), max(rdma.hca_objects()));
        let value = format!("{device} hca_handle={handles} hca_object={objects}");
        limits.push(plain("rdma", "rdma.max", "rdma", value));
    }
    Ok(limits)
}

/// The properties of a systemd unit that mean the same, systemd.resource-control(5), or systemd would put its own values back when it reloads.
pub fn properties(resources: &LinuxResources) -> Result<Vec<(&'static str, Value)>, CgroupError> {
    let mut properties: Vec<(&str, Value)> = of(resources)?.iter().filter_map(Limit::property).collect();
    for (name, value) in resources.unified().iter().flatten() {
        let Some((_, property)) = UNIFIED_PROPERTIES.iter().find(|(file, _)| file == name) else { continue };
        let value = if value == "max" { Some(u64::MAX) } else { value.parse().ok() };
        properties.extend(value.map(|value| (*property, Value::U64(value))));
    }
    Ok(properties)
}

const UNIFIED_PROPERTIES: [(&str, &str); 7] = [
    ("cpu.weight", "CPUWeight"),
    ("memory.high", "MemoryHigh"),
    ("memory.low", "MemoryLow"),
    ("memory.max", "MemoryMax"),
    ("memory.min", "MemoryMin"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
];

/// A set of numbers as systemd takes it: a bit for each.
fn mask(list: &str) -> Option<Value> {
    let numbers = runtime_spec::numbers(list)?;
    let mut bytes = vec![0; numbers.iter().max()? / 8 + 1];
    numbers.iter().for_each(|number| bytes[number / 8] |= 1 << (number % 8));
    Some(Value::Bytes(bytes))
}

/// Limits are written a device at a time.
fn block_io(io: &LinuxBlockIo) -> Vec<Limit> {
    let plain =
        |file: &str, field, value| Limit::Plain { controller: "io", file: file.to_owned(), field, value };
    let mut limits = Vec::new();
    let asked = |weight: Option<u16>| weight.filter(|&weight| weight != 0);
    limits.extend(asked(io.weight()).map(|weight| Limit::IoWeight { device: None, weight }));
    for device in io.weight_device().iter().flatten() {
        let numbers = Some((device.major(), device.minor()));
        limits.extend(asked(device.weight()).map(|weight| Limit::IoWeight { device: numbers, weight }));
    }
    let throttles: [(&str, &'static str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", "blockIO.throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("wbps", "blockIO.throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("riops", "blockIO.throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("wiops", "blockIO.throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ];
    for (key, field, devices) in throttles {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            limits.push(plain(
                "io.max",
                field,
                format!("{}:{} {key}={rate}", device.major(), device.minor()),
            ));
        }
    }
    limits
}

/// Fields that cgroup v2 has nothing for, and that runc passes over there: a container runs without, and a warning says so.
pub fn ignored(resources: &LinuxResources) -> Vec<String> {
    let Some(memory) = resources.memory() else { return Vec::new() };
    let limit = |bytes: Option<i64>| bytes.filter(|&bytes| bytes > 0).map(|bytes| bytes.to_string());
    let asked = [
        ("kernel", limit(memory.kernel())),
        ("kernelTCP", limit(memory.kernel_tcp())),
        ("swappiness", memory.swappiness().map(|value| value.to_string())),
        ("disableOOMKiller", memory.disable_oom_killer().filter(|&off| off).map(|off| off.to_string())),
    ];
    let line = |(field, value): (&str, Option<String>)| {
        value.map(|value| {
            format!("linux.resources.memory.{field}: {value}: is ignored: cgroup v2 has no such setting")
        })
    };
    asked.into_iter().filter_map(line).collect()
}

/// What else cgroup v2 has no counterpart of must not look as if it were in force. Zeroes and empty lists, which docker and podman send, ask for nothing.
fn refuse_unsupported(resources: &LinuxResources) -> Result<(), CgroupError> {
    let refuse = |field: &'static str, value: Option<String>| match value {
        Some(value) => Err(CgroupError::Unsupported { field, value }),
        None => Ok(()),
    };
    if let Some(cpu) = resources.cpu() {
        refuse("cpu.realtimeRuntime", cpu.realtime_runtime().filter(|&us| us != 0).map(|us| us.to_string()))?;
        refuse("cpu.realtimePeriod", cpu.realtime_period().filter(|&us| us != 0).map(|us| us.to_string()))?;
    }
    if let Some(io) = resources.block_io() {
        let leaf = io.leaf_weight().filter(|&weight| weight != 0);
        refuse("blockIO.leafWeight", leaf.map(|weight| weight.to_string()))?;
        let leaf = io.weight_device().iter().flatten().find_map(|device| device.leaf_weight());
        refuse(
            "blockIO.weightDevice.leafWeight",
            leaf.filter(|&weight| weight != 0).map(|weight| weight.to_string()),
        )?;
    }
    let network = resources.network().as_ref();
    let class = network.and_then(|network| network.class_id()).filter(|&id| id != 0);
    refuse("network.classID", class.map(|id| id.to_string()))?;
    let priority = network.and_then(|network| network.priorities().as_ref()?.first().cloned());
    refuse("network.priorities", priority.map(|priority| priority.name().clone()))
}

impl Limit {
    /// Controller, file, field of `linux.resources`, and the file's text.
    pub fn write(&self) -> (&'static str, &str, &'static str, String) {
        let max = |value: &Option<u64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        match self {
            Self::CpuWeight(weight) => ("cpu", "cpu.weight", "cpu.shares", weight.to_string()),
            Self::CpuMax { quota_us, period_us } => {
                let quota = match quota_us {
                    Some(quota @ 1..) => quota.to_string(),
                    _ => "max".to_owned(),
                };
                let text = period_us.map_or(quota.clone(), |period| format!("{quota} {period}"));
                ("cpu", "cpu.max", if quota_us.is_some() { "cpu.quota" } else { "cpu.period" }, text)
            }
            Self::MemoryMax(bytes) => ("memory", "memory.max", "memory.limit", max(bytes)),
            Self::MemoryLow(bytes) => ("memory", "memory.low", "memory.reservation", max(bytes)),
            Self::SwapMax(bytes) => ("memory", "memory.swap.max", "memory.swap", max(bytes)),
            Self::PidsMax(tasks) => ("pids", "pids.max", "pids.limit", max(tasks)),
            Self::IoWeight { device, weight } => {
                // 1 to 10000, as every runtime has it.
                let scaled = 1 + (u64::from(*weight.clamp(&10, &1000)) - 10) * 9999 / 990;
                let field = if device.is_some() { "blockIO.weightDevice" } else { "blockIO.weight" };
                ("io", "io.weight", field, format!("{} {scaled}", device_word(*device)))
            }
            Self::Plain { controller, file, field, value } => (controller, file, field, value.clone()),
        }
    }

    /// The same for the scheduler BFQ, which has a file of its own that takes a weight as it is.
    pub fn write_for_bfq(&self) -> Option<(&'static str, String)> {
        let Self::IoWeight { device, weight } = self else { return None };
        Some(("io.bfq.weight", format!("{} {weight}", device_word(*device))))
    }

    /// Asks for nothing: weights share what there is, and `max` is no limit.
    pub fn is_none(&self) -> bool {
        match self {
            Self::CpuWeight(_) | Self::MemoryLow(_) | Self::SwapMax(_) => true,
            Self::MemoryMax(value) | Self::PidsMax(value) => value.is_none(),
            Self::CpuMax { quota_us, .. } => quota_us.is_none_or(|quota| quota < 0),
            // A reservation counts what hugetlb.*.max counts, and older kernels lack it.
            Self::IoWeight { .. } => false,
            Self::Plain { file, value, .. } => {
                file == "cpu.idle" && value == "0" || file.ends_with("rsvd.max")
            }
        }
    }

    /// Whether the file says what was asked; memory is rounded to pages by the kernel, and what it shows in other words is not compared.
    pub fn holds(&self, now: &str) -> bool {
        const PAGE: u64 = 4096;
        match self {
            Self::MemoryMax(Some(bytes)) | Self::MemoryLow(Some(bytes)) | Self::SwapMax(Some(bytes)) => {
                now.parse::<u64>().is_ok_and(|now| now / PAGE == bytes / PAGE)
            }
            Self::CpuMax { quota_us, period_us: None } => {
                quota_us.is_none_or(|_| now.split(' ').next() == Some(&self.write().3))
            }
            Self::Plain { .. } | Self::IoWeight { .. } => true,
            _ => now == self.write().3,
        }
    }

    fn property(&self) -> Option<(&'static str, Value)> {
        let number = |value: &Option<u64>| Value::U64(value.unwrap_or(u64::MAX));
        Some(match self {
            Self::CpuWeight(weight) => ("CPUWeight", Value::U64(*weight)),
            Self::CpuMax { quota_us: None, .. } => return None,
            Self::CpuMax { quota_us, period_us } => {
                let quota = quota_us.and_then(|quota| u64::try_from(quota).ok());
                let period = period_us.unwrap_or(100_000);
                // Microseconds a second, in steps of 10 ms as systemd has it.
                let share = quota.map(|quota| (quota * 1_000_000 / period).next_multiple_of(10_000));
                ("CPUQuotaPerSecUSec", number(&share))
            }
            Self::MemoryMax(bytes) => ("MemoryMax", number(bytes)),
            Self::MemoryLow(bytes) => ("MemoryLow", number(bytes)),
            Self::SwapMax(bytes) => ("MemorySwapMax", number(bytes)),
            Self::PidsMax(tasks) => ("TasksMax", number(tasks)),
            Self::IoWeight { device: None, .. } => {
                let weight = self.write().3.split(' ').nth(1).and_then(|weight| weight.parse().ok());
                ("IOWeight", Value::U64(weight?))
            }
            Self::Plain { file, value, .. } if file == "cpuset.cpus" => ("AllowedCPUs", mask(value)?),
            Self::Plain { file, value, .. } if file == "cpuset.mems" => ("AllowedMemoryNodes", mask(value)?),
            Self::IoWeight { .. } | Self::Plain { .. } => return None,
        })
    }

    /// Writes by the library what it can write; `below` is relative to /sys/fs/cgroup. `None`: it has no call for this one.
    pub fn through_cgroups_rs(&self, below: &Path) -> Option<Result<(), String>> {
        let group = Controllers::load(Box::new(hierarchies::V2::new()), below);
        let text = |err: cgroups_rs::fs::error::Error| err.to_string();
        let signed = |value: &Option<u64>| {
            value.map_or(MaxValue::Max, |value| MaxValue::Value(i64::try_from(value).unwrap_or(i64::MAX)))
        };
        let done = match self {
            Self::CpuWeight(weight) => group.controller_of::<CpuController>()?.set_shares(*weight),
            Self::PidsMax(tasks) => group.controller_of::<PidController>()?.set_pid_max(signed(tasks)),
            Self::MemoryMax(bytes) | Self::MemoryLow(bytes) => {
                let mut wanted =
                    cgroups_rs::fs::memory::SetMemory { low: None, high: None, min: None, max: None };
                match self {
                    Self::MemoryMax(_) => wanted.max = Some(signed(bytes)),
                    _ => wanted.low = Some(signed(bytes)),
                }
                group.controller_of::<MemController>()?.set_mem(wanted)
            }
            Self::SwapMax(bytes) => {
                let bytes = bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
                group.controller_of::<MemController>()?.set_memswap_limit(bytes)
            }
            Self::CpuMax { .. } | Self::IoWeight { .. } | Self::Plain { .. } => return None,
        };
        Some(done.map_err(text))
    }
}

fn device_word(device: Option<(i64, i64)>) -> String {
    device.map_or_else(|| "default".to_owned(), |(major, minor)| format!("{major}:{minor}"))
}

/// `cpu.weight` (1 to 10000) of v1 shares (2 to 262144): the curve that meets the default of both, 1024 and 100, as runc 1.4 and crun 1.24 have it.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// `-1` is no limit.
fn max_value(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

/// v2 limits swap alone, where config.json gives memory and swap together.
fn swap(both: i64, memory: Option<i64>) -> Result<Option<u64>, CgroupError> {
    let Ok(total) = u64::try_from(both) else { return Ok(None) };
    let refused =
        |why: &str| CgroupError::Unsupported { field: "memory.swap", value: format!("{both}: {why}") };
    match memory {
        None | Some(0) => Err(refused("is given without memory.limit, of which it is the sum with swap")),
        Some(memory) => match u64::try_from(memory) {
            Err(_) => Ok(Some(total)),
            Ok(memory) => total
                .checked_sub(memory)
                .map(Some)
                .ok_or_else(|| refused("is less than memory.limit, which it includes")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 100), (2048, 174), (262_144, 10_000), (1 << 40, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn resources_become_files() {
        let text = r#"{
            "cpu": {"shares": 1024, "quota": 50000, "burst": 1000, "idle": 1, "cpus": "0-1", "mems": "0"},
            "memory": {"limit": 10485760, "reservation": 4096, "swap": 20971520},
            "pids": {"limit": -1},
            "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 16, "weight": 10}], "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "rdma": {"mlx5": {"hcaHandles": 2}}
        }"#;
        let limits = of(&serde_json::from_str(text).expect("parses")).expect("supported");
        let written: Vec<String> = limits
            .iter()
            .map(|limit| {
                let (_, file, _, value) = limit.write();
                format!("{file}={value}")
            })
            .collect();
        let expected = [
            // Without a weight, which the idle have not.
            "cpu.idle=1",
            "cpu.max=50000",
            "cpu.max.burst=1000",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "memory.max=10485760",
            "memory.low=4096",
            "memory.swap.max=10485760",
            "pids.max=max",
            "io.weight=default 4950",
            "io.weight=8:16 1",
            "io.max=8:0 rbps=1024",
            "hugetlb.2MB.max=4194304",
            "hugetlb.2MB.rsvd.max=4194304",
            "rdma.max=mlx5 hca_handle=2 hca_object=max",
        ];
        assert_eq!(written, expected);
        let bfq: Vec<String> =
            limits.iter().filter_map(Limit::write_for_bfq).map(|(_, value)| value).collect();
        assert_eq!(bfq, ["default 500", "8:16 10"]);
        assert!(limits.iter().all(|limit| limit.holds(&limit.write().3)));
        assert!(Limit::MemoryMax(Some(5000)).holds("4096"), "the kernel rounds to pages");
    }

    #[test]
    fn systemd_is_told_the_same() {
        let text = r#"{"cpu": {"cpus": "0,9-10", "period": 5}, "unified": {"memory.high": "4096", "pids.max": "max", "io.max": "8:0 rbps=1"}}"#;
        let mut properties = properties(&serde_json::from_str(text).expect("parses")).expect("supported");
        properties.sort_by_key(|(name, _)| *name);
        let expected = [
            ("AllowedCPUs", Value::Bytes(vec![1, 6])),
            ("MemoryHigh", Value::U64(4096)),
            ("TasksMax", Value::U64(u64::MAX)),
        ];
        assert_eq!(properties, expected);
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        let cases = [
            (r#"{"cpu": {"realtimeRuntime": 1}}"#, "cpu.realtimeRuntime"),
            (r#"{"memory": {"limit": 4096, "swap": 1024}}"#, "memory.swap"),
            (r#"{"memory": {"swap": 1024}}"#, "memory.swap"),
            (r#"{"network": {"classID": 5}}"#, "network.classID"),
            (r#"{"blockIO": {"leafWeight": 5}}"#, "blockIO.leafWeight"),
        ];
        for (text, field) in cases {
            let err = of(&serde_json::from_str(text).expect("parses")).expect_err(text).to_string();
            assert!(err.starts_with(&format!("linux.resources.{field}: ")), "{err}");
        }
    }

    #[test]
    fn what_runc_passes_over_is_named() {
        let text = r#"{"memory": {"kernel": 5, "kernelTCP": 6, "swappiness": 0, "disableOOMKiller": true}}"#;
        let resources = serde_json::from_str(text).expect("parses");
        assert_eq!(of(&resources).expect("supported"), []);
        let told = ignored(&resources).join("\n");
        for words in ["kernel: 5:", "kernelTCP: 6:", "swappiness: 0:", "disableOOMKiller: true:"] {
            assert!(told.contains(&format!("linux.resources.memory.{words} is ignored")), "{words}: {told}");
        }
        let text = r#"{"memory": {"kernel": -1, "kernelTCP": 0, "disableOOMKiller": false}}"#;
        assert_eq!(ignored(&serde_json::from_str(text).expect("parses")), [""; 0], "they ask for nothing");
    }
}
