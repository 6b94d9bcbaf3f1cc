//! Label and field selectors of queries.

use api::{Resource, Status};
use serde_json::Value;

/// Which objects a request is about.
pub struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selection {
    pub fn parse(_: &Resource, labels: Option<&str>, fields: Option<&str>) -> Result<Self, Status> {
        let labels =
            split(labels.unwrap_or_default()).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = fields.unwrap_or_default().split(',').filter(|term| !term.is_empty());
        Ok(Self { labels, fields: fields.map(field).collect::<Result<_, _>>()? })
    }

    pub fn only_name(&mut self, name: &str) {
        self.fields.push(("metadata.name".into(), true, name.into()));
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|has| values.iter().any(|value| value == has))
            }
            Requirement::NotIn(key, values) => {
                !label(key).is_some_and(|has| values.iter().any(|value| value == has))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        let fields = self.fields.iter().all(|(path, equal, value)| {
            let found = path.split('.').fold(object, |object, part| &object[part]);
            (found.as_str().unwrap_or_default() == value) == *equal
        });
        labels && fields
    }
}

/// Terms between commas that are not in parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0;
    let terms = selector.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    terms.map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn requirement(term: &str) -> Result<Requirement, Status> {
    let bad = || Status::bad_request(format!("unable to parse requirement: {term:?}"));
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().into(), one(value)));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(key.trim().into(), one(value)));
    }
    if let Some((left, list)) = term.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(bad)?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        return match left.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => Ok(Requirement::In((*key).into(), values)),
            [key, "notin"] => Ok(Requirement::NotIn((*key).into(), values)),
            _ => Err(bad()),
        };
    }
    if term.contains(char::is_whitespace) {
        return Err(bad());
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(key.into())),
        None => Ok(Requirement::Exists(term.into())),
    }
}

fn field(term: &str) -> Result<(String, bool, String), Status> {
    let parts = match term.split_once("!=") {
        Some((path, value)) => Some((path, false, value)),
        None => {
            term.split_once("==").or_else(|| term.split_once('=')).map(|(path, value)| (path, true, value))
        }
    };
    let (path, equal, value) = parts
        .ok_or_else(|| Status::bad_request(format!("invalid selector: {term:?}; can't understand it")))?;
    Ok((path.trim().into(), equal, value.trim().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::resource::PODS;
    use serde_json::json;

    #[test]
    fn selectors() {
        let pod = json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}}, "spec": {"nodeName": "n"}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web,tier in (front, back)", "", true),
            ("app==web,!gone,tier", "spec.nodeName=n", true),
            ("app!=web", "", false),
            ("gone!=x,tier notin (back)", "metadata.name!=other", true),
            ("gone", "", false),
            ("", "spec.nodeName=", false),
        ] {
            let selection = Selection::parse(&PODS, Some(labels), Some(fields)).expect("parses");
            assert_eq!(selection.matches(&pod), expected, "{labels} {fields}");
        }
        assert!(Selection::parse(&PODS, Some("a in (b"), None).is_err());
        assert!(Selection::parse(&PODS, None, Some("metadata.name")).is_err());
    }
}
