//! Resource amounts: CPU in thousandths, the rest in bytes or pieces.

use crate::controllers::object::{items, text};
use serde_json::Value;

/// What a pod asks for or a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub ephemeral_bytes: u64,
    pub pods: u64,
}

impl Amounts {
    /// From a `ResourceList`.
    pub fn parse(list: &Value) -> Self {
        Self {
            cpu_millis: millis(&list["cpu"]),
            memory_bytes: whole(&list["memory"]),
            ephemeral_bytes: whole(&list["ephemeral-storage"]),
            pods: whole(&list["pods"]),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: combine(self.cpu_millis, other.cpu_millis),
            memory_bytes: combine(self.memory_bytes, other.memory_bytes),
            ephemeral_bytes: combine(self.ephemeral_bytes, other.ephemeral_bytes),
            pods: combine(self.pods, other.pods),
        }
    }
}

/// What a pod needs on its node: its containers together, or its largest init container beside the sidecars that
/// run by then, whichever is more; plus overhead. Counts as one pod.
pub fn pod_requests(spec: &Value) -> Amounts {
    let requests = |container: &Value| Amounts::parse(&container["resources"]["requests"]);
    let (mut sidecars, mut init_peak) = (Amounts::default(), Amounts::default());
    for container in items(&spec["initContainers"]) {
        if text(&container["restartPolicy"]) == "Always" {
            sidecars = sidecars.plus(requests(container));
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars.plus(requests(container)));
        }
    }
    let running = items(&spec["containers"]).iter().fold(sidecars, |sum, c| sum.plus(requests(c)));
    let total = running.max(init_peak).plus(Amounts::parse(&spec["overhead"]));
    Amounts { pods: 1, ..total }
}

/// Thousandths of a quantity, rounded up.
pub fn millis(quantity: &Value) -> u64 {
    scaled(quantity, 1000)
}

/// A quantity as a whole number, rounded up.
pub fn whole(quantity: &Value) -> u64 {
    scaled(quantity, 1)
}

fn scaled(quantity: &Value, scale: i128) -> u64 {
    let number;
    let quantity = match quantity {
        Value::String(text) => text.as_str(),
        Value::Number(value) => {
            number = value.to_string();
            &number
        }
        _ => return 0,
    };
    parse_scaled(quantity, scale).unwrap_or_default()
}

fn parse_scaled(quantity: &str, scale: i128) -> Option<u64> {
    let end = quantity
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    };
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    let digits: i128 = format!("{integer}{fraction}").parse().ok()?;
    let divisor = divisor.checked_mul(10i128.pow(u32::try_from(fraction.len()).ok()?))?;
    let total = digits.checked_mul(multiplier)?.checked_mul(scale)?;
    u64::try_from(total.max(0).checked_add(divisor - 1)? / divisor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_read_in_every_notation() {
        let cases = [
            (json!("100m"), 100, 1),
            (json!("1.5"), 1500, 2),
            (json!(2), 2000, 2),
            (json!("1Gi"), 1024 * 1024 * 1024 * 1000, 1024 * 1024 * 1024),
            (json!("1e3"), 1_000_000, 1000),
            (json!("2k"), 2_000_000, 2000),
            (json!("100n"), 1, 1),
            (json!("rubbish"), 0, 0),
            (json!(null), 0, 0),
        ];
        for (quantity, expected_millis, expected_whole) in cases {
            assert_eq!(millis(&quantity), expected_millis, "{quantity}");
            assert_eq!(whole(&quantity), expected_whole, "{quantity}");
        }
    }

    #[test]
    fn a_pod_needs_its_containers_or_its_largest_init_container() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let cases = [
            ("sum", json!({"containers": [container("1"), container("500m")]}), 1500),
            ("init wins", json!({"containers": [container("1")], "initContainers": [container("2")]}), 2000),
            ("sidecar adds", json!({"containers": [container("1")], "initContainers": [sidecar("2")]}), 3000),
            (
                "init beside an earlier sidecar",
                json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("3")]}),
                4000,
            ),
            ("overhead", json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(pod_requests(&spec).cpu_millis, expected, "{name}");
        }
    }
}
