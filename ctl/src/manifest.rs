//! Objects out of files: YAML or JSON, several in one, a directory, or standard input.

use crate::{
    error::{CtlError, failed, file},
    resource,
};
use api::Resource;
use serde_json::Value;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// An object as a file has it, and where it belongs.
pub struct Object {
    pub resource: &'static Resource,
    pub name: String,
    pub namespace: String,
    pub value: Value,
}

impl Object {
    pub fn path(&self) -> String {
        resource::object(self.resource, &self.namespace, &self.name)
    }

    pub fn label(&self) -> String {
        resource::label(self.resource, &self.name)
    }
}

/// Every object in `paths` (`-` is standard input), in order. A directory gives its `.yaml`, `.yml` and `.json` files.
///
/// `namespace` is for objects that name none; `forced` must agree with those that do.
pub fn read(paths: &[PathBuf], namespace: &str, forced: Option<&str>) -> Result<Vec<Object>, CtlError> {
    let mut objects = Vec::new();
    for path in paths {
        for source in sources(path)? {
            let (name, text) = load(&source)?;
            for value in parse(&text).map_err(|why| failed(format!("{name}: {why}")))? {
                objects
                    .push(place(value, namespace, forced).map_err(|why| failed(format!("{name}: {why}")))?);
            }
        }
    }
    if objects.is_empty() {
        return Err(CtlError::Usage("the files hold no object".to_owned()));
    }
    Ok(objects)
}

fn sources(path: &Path) -> Result<Vec<PathBuf>, CtlError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .map_err(file("read", path))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json"))
        .collect();
    files.sort();
    Ok(files)
}

fn load(path: &Path) -> Result<(String, String), CtlError> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(file("read", "standard input"))?;
        return Ok(("standard input".to_owned(), text));
    }
    Ok((path.display().to_string(), fs::read_to_string(path).map_err(file("read", path))?))
}

/// The documents of one file, lists opened up.
fn parse(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|err| err.to_string())?;
    let mut objects = Vec::new();
    for mut document in documents.into_iter().filter(|document| !document.is_null()) {
        let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").filter(|_| is_list).map(Value::take) {
            Some(Value::Array(items)) => objects.extend(items),
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

fn place(mut value: Value, namespace: &str, forced: Option<&str>) -> Result<Object, String> {
    if !value.is_object() {
        return Err("a document is not an object with apiVersion and kind".to_owned());
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let version = text("apiVersion").ok_or("apiVersion is missing")?;
    let kind = text("kind").ok_or("kind is missing")?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = api::resource::RESOURCES
        .iter()
        .copied()
        .find(|resource| (resource.group, resource.version, resource.kind) == (group, version, kind))
        .ok_or_else(|| {
            format!("this cluster has no kind {kind:?} in {:?}", value["apiVersion"].as_str().unwrap_or(""))
        })?;
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() && value["metadata"]["generateName"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{kind}: metadata.name is missing"));
    }
    let own = value["metadata"]["namespace"].as_str();
    if let (Some(own), Some(forced), true) = (own, forced, resource.namespaced)
        && own != forced
    {
        return Err(format!("{kind} {name}: is in namespace {own:?}, but --namespace says {forced:?}"));
    }
    let namespace = own.unwrap_or(namespace).to_owned();
    if resource.namespaced {
        value["metadata"]["namespace"] = Value::from(namespace.as_str());
    }
    Ok(Object { resource, name, namespace, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_old_octals() {
        let text = "---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n---\n\
                    apiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: c}\nmode: 0644\n";
        let objects: Vec<Object> = parse(text)
            .expect("valid")
            .into_iter()
            .map(|value| place(value, "default", None).expect("placed"))
            .collect();
        let labels: Vec<String> =
            objects.iter().map(|object| format!("{}/{}", object.namespace, object.label())).collect();
        assert_eq!(labels, ["default/configmap/a", "c/secret/b"]);
        assert_eq!(objects[1].value["mode"], 420);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("kind: Pod", "apiVersion is missing"),
            ("{apiVersion: v1, kind: Pod}", "Pod: metadata.name is missing"),
            ("{apiVersion: v9, kind: Pod, metadata: {name: a}}", "no kind \"Pod\" in \"v9\""),
            ("- 1", "not an object"),
        ];
        for (text, expected) in cases {
            let value = parse(text).expect("YAML").remove(0);
            let err = place(value, "default", None).err().expect("refused");
            assert!(err.contains(expected), "{text}: {err}");
        }
        let value =
            parse("{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}}").expect("YAML").remove(0);
        assert!(place(value, "y", Some("y")).is_err());
    }
}
