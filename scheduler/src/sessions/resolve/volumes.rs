//! A pod's volumes: directories of the node, or the files that ConfigMaps, Secrets and the downward API come to.

use super::{Context, field::FieldValue};
use crate::controllers::{
    object::{int, items, string, text},
    world::amount::whole,
};
use agent_protocol::{EmptyDirMedium, File, FileContent, HostPathType, Volume, VolumeSource};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

const DEFAULT_MODE: u32 = 0o644;

impl Context<'_> {
    pub fn volume(&self, volume: &Value) -> Volume {
        let name = string(&volume["name"]);
        let source = self.source(volume).unwrap_or_else(|message| VolumeSource::Missing { message });
        Volume { name, source }
    }

    fn source(&self, volume: &Value) -> Result<VolumeSource, String> {
        let kind = |field: &str| Some(&volume[field]).filter(|value| !value.is_null());
        if let Some(path) = kind("hostPath") {
            return Ok(VolumeSource::HostPath { path: string(&path["path"]), kind: host_path_type(path) });
        }
        if let Some(source) = kind("configMap") {
            let files = self.config_map_files(source, text(&source["name"]), mode(source))?;
            return Ok(VolumeSource::Files { files, memory: false });
        }
        if let Some(source) = kind("secret") {
            let files = self.secret_files(source, text(&source["secretName"]), mode(source))?;
            return Ok(VolumeSource::Files { files, memory: true });
        }
        if let Some(source) = kind("downwardAPI") {
            let files = self.downward_files(source, mode(source))?;
            return Ok(VolumeSource::Files { files, memory: false });
        }
        if let Some(projected) = kind("projected") {
            return self.projected(projected);
        }
        let fields = || volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        match fields().find(|key| !matches!(*key, "name" | "emptyDir")) {
            Some(unknown) => Err(format!("volumes of type {unknown} are not supported")),
            None => Ok(empty_dir(&volume["emptyDir"])),
        }
    }

    fn projected(&self, projected: &Value) -> Result<VolumeSource, String> {
        let mode = mode(projected);
        let (mut files, mut memory) = (Vec::new(), false);
        for source in items(&projected["sources"]) {
            let (map, secret) = (&source["configMap"], &source["secret"]);
            if !map.is_null() {
                files.extend(self.config_map_files(map, text(&map["name"]), mode)?);
            }
            if !secret.is_null() {
                memory = true;
                files.extend(self.secret_files(secret, text(&secret["name"]), mode)?);
            }
            files.extend(self.downward_files(&source["downwardAPI"], mode)?);
        }
        Ok(VolumeSource::Files { files, memory })
    }

    fn config_map_files(&self, source: &Value, name: &str, mode: u32) -> Result<Vec<File>, String> {
        let optional = source["optional"] == true;
        let Some(map) = self.sources.config_maps.get(name) else {
            return if optional { Ok(Vec::new()) } else { Err(format!("configmap \"{name}\" not found")) };
        };
        let read = |key: &str| match map["data"][key].as_str() {
            Some(text) => Some(text.as_bytes().to_vec()),
            None => map["binaryData"][key].as_str().map(decoded),
        };
        let keys = [&map["data"], &map["binaryData"]];
        let missing = |key: &str| format!("configmap references non-existent config key: {key}");
        select(source, &keys, mode, optional, read, missing)
    }

    fn secret_files(&self, source: &Value, name: &str, mode: u32) -> Result<Vec<File>, String> {
        let optional = source["optional"] == true;
        let Some(secret) = self.sources.secrets.get(name) else {
            return if optional { Ok(Vec::new()) } else { Err(format!("secret \"{name}\" not found")) };
        };
        let read = |key: &str| secret["data"][key].as_str().map(decoded);
        let missing = |key: &str| format!("references non-existent secret key: {key}");
        select(source, &[&secret["data"]], mode, optional, read, missing)
    }

    fn downward_files(&self, source: &Value, default_mode: u32) -> Result<Vec<File>, String> {
        let file = |item: &Value| {
            let content = if item["fieldRef"].is_null() {
                let text = self.resource_field(&item["resourceFieldRef"], &Value::Null)?;
                FileContent::Bytes(text.into_bytes())
            } else {
                match self.field(&item["fieldRef"])? {
                    FieldValue::Text(text) => FileContent::Bytes(text.into_bytes()),
                    FieldValue::OnNode(field) => FileContent::Field(field),
                }
            };
            Ok(File { path: string(&item["path"]), mode: item_mode(item, default_mode), content })
        };
        items(&source["items"]).iter().map(file).collect()
    }
}

/// The chosen keys as files, or all of them when none is chosen.
fn select(
    source: &Value,
    maps: &[&Value],
    mode: u32,
    optional: bool,
    read: impl Fn(&str) -> Option<Vec<u8>>,
    missing: impl Fn(&str) -> String,
) -> Result<Vec<File>, String> {
    let chosen = items(&source["items"]);
    if chosen.is_empty() {
        let keys = maps.iter().filter_map(|map| map.as_object()).flatten().map(|(key, _)| key);
        let file =
            |key: &String| Some(File { path: key.clone(), mode, content: FileContent::Bytes(read(key)?) });
        return Ok(keys.filter_map(file).collect());
    }
    let mut files = Vec::new();
    for item in chosen {
        let key = text(&item["key"]);
        match read(key) {
            Some(bytes) => files.push(File {
                path: string(&item["path"]),
                mode: item_mode(item, mode),
                content: FileContent::Bytes(bytes),
            }),
            None if optional => {}
            None => return Err(missing(key)),
        }
    }
    Ok(files)
}

fn decoded(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64).unwrap_or_default()
}

fn mode(source: &Value) -> u32 {
    source["defaultMode"].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

fn item_mode(item: &Value, default: u32) -> u32 {
    if item["mode"].is_null() { default } else { u32::try_from(int(&item["mode"])).unwrap_or(default) }
}

fn empty_dir(source: &Value) -> VolumeSource {
    VolumeSource::EmptyDir {
        medium: match text(&source["medium"]) {
            "Memory" => EmptyDirMedium::Memory,
            _ => EmptyDirMedium::Disk,
        },
        size_bytes_max: Some(whole(&source["sizeLimit"])).filter(|&bytes| bytes > 0),
    }
}

fn host_path_type(source: &Value) -> HostPathType {
    match text(&source["type"]) {
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        _ => HostPathType::Any,
    }
}
