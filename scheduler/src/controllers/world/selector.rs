//! Label selectors of the API's objects, parsed once.

use crate::controllers::object::{items, string, string_map, text};
use serde_json::Value;
use std::collections::BTreeMap;

/// A `LabelSelector`. An empty one matches everything; whether that is allowed is the caller's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// One condition on a label; also what node affinity is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

impl Selector {
    /// From `{matchLabels, matchExpressions}`.
    pub fn parse(value: &Value) -> Self {
        let labels = Self::from_map(&value["matchLabels"]).0;
        let expressions = items(&value["matchExpressions"]).iter().map(Requirement::parse);
        Self(labels.into_iter().chain(expressions).collect())
    }

    /// From a plain map, as Services and ReplicationControllers have it.
    pub fn from_map(value: &Value) -> Self {
        let equal =
            |(key, value): (String, String)| Requirement { key, operator: Operator::In, values: vec![value] };
        Self(string_map(value).into_iter().map(equal).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    pub fn parse(value: &Value) -> Self {
        let operator = match text(&value["operator"]) {
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::In,
        };
        Self {
            key: string(&value["key"]),
            operator,
            values: items(&value["values"]).iter().map(string).collect(),
        }
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_value(labels.get(&self.key).map(String::as_str))
    }

    /// `value`: what the label has, `None` when it is absent.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|wanted| wanted == value));
        let compared = |holds: fn(&i64, &i64) -> bool| {
            let bound = self.values.first().and_then(|bound| bound.parse().ok());
            let number = value.and_then(|value| value.parse().ok());
            number.zip(bound).is_some_and(|(number, bound): (i64, i64)| holds(&number, &bound))
        };
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compared(i64::gt),
            Operator::Lt => compared(i64::lt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_as_kubernetes_says() {
        let labels = BTreeMap::from([("app".into(), "web".into()), ("size".into(), "5".into())]);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let cases = [
            ("empty", json!({}), true),
            ("equal", json!({"matchLabels": {"app": "web"}}), true),
            ("other value", json!({"matchLabels": {"app": "db"}}), false),
            ("in", expression("app", "In", &["db", "web"]), true),
            ("not in, absent", expression("tier", "NotIn", &["x"]), true),
            ("not in, present", expression("app", "NotIn", &["web"]), false),
            ("exists", expression("app", "Exists", &[]), true),
            ("does not exist", expression("app", "DoesNotExist", &[]), false),
            ("greater", expression("size", "Gt", &["4"]), true),
            ("less", expression("size", "Lt", &["5"]), false),
            ("greater, not a number", expression("app", "Gt", &["4"]), false),
        ];
        for (name, selector, expected) in cases {
            assert_eq!(Selector::parse(&selector).matches(&labels), expected, "{name}");
        }
    }
}
