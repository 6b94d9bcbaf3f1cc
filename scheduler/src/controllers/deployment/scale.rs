//! Arithmetic of a rollout: how many pods there may be and must be, and how a change of size is spread.

use crate::controllers::world::RollingUpdate;
use serde_json::Value;

/// Pods above and below `replicas` that a rolling update allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenceposts {
    pub max_surge: i64,
    pub max_unavailable: i64,
}

/// A percentage of surge is rounded up, one of unavailability down; if both come to 0 one pod may be unavailable.
pub fn fenceposts(rolling: &RollingUpdate, replicas: i64) -> Fenceposts {
    let max_surge = resolve(&rolling.max_surge, replicas, true);
    let max_unavailable = resolve(&rolling.max_unavailable, replicas, false);
    let max_unavailable = if max_surge == 0 && max_unavailable == 0 { 1 } else { max_unavailable };
    Fenceposts { max_surge, max_unavailable: max_unavailable.min(replicas) }
}

/// An `IntOrString` against a total.
fn resolve(value: &Value, total: i64, round_up: bool) -> i64 {
    let Some(percent) = value.as_str().and_then(|text| text.strip_suffix('%')) else {
        return value.as_i64().unwrap_or_default().max(0);
    };
    let product = percent.parse::<i64>().unwrap_or_default().max(0) * total;
    if round_up { (product + 99) / 100 } else { product / 100 }
}

/// A ReplicaSet's part in a proportional scaling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub replicas: i64,
    /// Annotation `deployment.kubernetes.io/max-replicas`: what the whole Deployment could have when this
    /// ReplicaSet was last scaled; `None`: take the Deployment's status.
    pub max_before: Option<i64>,
}

/// Sizes after the Deployment changed to `replicas` in the middle of a rollout. `shares` are in order: largest first
/// (of equals the newer first when growing, the older when shrinking); the first takes what rounding leaves.
pub fn proportional(shares: &[Share], replicas: i64, max_surge: i64, status_replicas: i64) -> Vec<i64> {
    let total: i64 = shares.iter().map(|share| share.replicas).sum();
    let allowed = if replicas > 0 { replicas + max_surge } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i64> = Vec::with_capacity(shares.len());
    for share in shares {
        let part = proportion(share, replicas, max_surge, status_replicas, to_add - added);
        let part = if to_add == 0 { 0 } else { part };
        added += part;
        sizes.push(share.replicas + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn proportion(share: &Share, replicas: i64, max_surge: i64, status_replicas: i64, left: i64) -> i64 {
    if share.replicas == 0 || left == 0 {
        return 0;
    }
    let fraction = fraction(share, replicas, max_surge, status_replicas);
    if left > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(share: &Share, replicas: i64, max_surge: i64, status_replicas: i64) -> i64 {
    if replicas == 0 {
        return -share.replicas;
    }
    let max_before = share.max_before.filter(|&max| max > 0).unwrap_or(status_replicas);
    if max_before == 0 {
        return 0;
    }
    let doubled = 2 * share.replicas * (replicas + max_surge);
    let rounded = (doubled + max_before).div_euclid(2 * max_before);
    rounded - share.replicas
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let cases = [
            (json!("25%"), json!("25%"), 3, 1, 0),
            (json!("25%"), json!("25%"), 10, 3, 2),
            (json!(0), json!("10%"), 5, 0, 1),
            (json!(2), json!(7), 3, 2, 3),
            (json!("0%"), json!(1), 4, 0, 1),
            (json!("100%"), json!("100%"), 4, 4, 4),
        ];
        for (max_surge, max_unavailable, replicas, surge, unavailable) in cases {
            let rolling = RollingUpdate { max_surge, max_unavailable };
            let expected = Fenceposts { max_surge: surge, max_unavailable: unavailable };
            assert_eq!(fenceposts(&rolling, replicas), expected, "{rolling:?} of {replicas}");
        }
    }

    #[test]
    fn a_change_of_size_is_spread_in_proportion() {
        let share = |replicas, max_before| Share { replicas, max_before: Some(max_before) };
        let cases = [
            ("grow 10 → 15", vec![share(8, 13), share(5, 13)], 15, 3, vec![11, 7]),
            ("shrink 10 → 5", vec![share(8, 13), share(5, 13)], 5, 2, vec![4, 3]),
            ("to nothing", vec![share(8, 13), share(5, 13)], 0, 0, vec![0, 0]),
            ("no change", vec![share(8, 13), share(5, 13)], 10, 3, vec![8, 5]),
        ];
        for (name, shares, replicas, max_surge, expected) in cases {
            assert_eq!(proportional(&shares, replicas, max_surge, 13), expected, "{name}");
        }
    }
}
