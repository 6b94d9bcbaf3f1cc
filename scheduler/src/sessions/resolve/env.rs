//! A container's environment: services, `envFrom`, `env`, later ones over earlier ones.

use super::{Context, ServiceAddress, field::FieldValue};
use crate::controllers::object::{items, string, text};
use agent_protocol::{EnvValue, EnvVar};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

impl Context<'_> {
    /// The variables in order, or why the container cannot be configured.
    pub fn environment(&self, container: &Value) -> Result<Vec<EnvVar>, String> {
        let mut env = self.service_env();
        for from in items(&container["envFrom"]) {
            let prefix = text(&from["prefix"]);
            let all = match (&from["configMapRef"], &from["secretRef"]) {
                (Value::Null, reference) => self.whole_secret(reference)?,
                (reference, _) => self.whole_config_map(reference)?,
            };
            let named = all.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value));
            env.extend(named.map(|(name, value)| EnvVar { name, value: EnvValue::Verbatim(value) }));
        }
        for variable in items(&container["env"]) {
            if let Some(value) = self.variable(variable, container)? {
                env.push(EnvVar { name: string(&variable["name"]), value });
            }
        }
        Ok(last_wins(env))
    }

    fn variable(&self, variable: &Value, container: &Value) -> Result<Option<EnvValue>, String> {
        let from = &variable["valueFrom"];
        if from.is_null() {
            return Ok(Some(EnvValue::Template(string(&variable["value"]))));
        }
        let value = if !from["configMapKeyRef"].is_null() {
            self.config_map_key(&from["configMapKeyRef"])?
        } else if !from["secretKeyRef"].is_null() {
            self.secret_key(&from["secretKeyRef"])?
        } else if !from["resourceFieldRef"].is_null() {
            Some(self.resource_field(&from["resourceFieldRef"], container)?)
        } else {
            return Ok(Some(match self.field(&from["fieldRef"])? {
                FieldValue::Text(text) => EnvValue::Verbatim(text),
                FieldValue::OnNode(field) => EnvValue::Field(field),
            }));
        };
        Ok(value.map(EnvValue::Verbatim))
    }

    fn config_map_key(&self, reference: &Value) -> Result<Option<String>, String> {
        let (name, key) = (text(&reference["name"]), text(&reference["key"]));
        let optional = reference["optional"] == true;
        match self.sources.config_maps.get(name) {
            None if optional => Ok(None),
            None => Err(format!("configmap \"{name}\" not found")),
            Some(map) => match map["data"][key].as_str() {
                Some(value) => Ok(Some(value.to_owned())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {key} in ConfigMap {}/{name}", self.namespace())),
            },
        }
    }

    fn secret_key(&self, reference: &Value) -> Result<Option<String>, String> {
        let (name, key) = (text(&reference["name"]), text(&reference["key"]));
        let optional = reference["optional"] == true;
        match self.sources.secrets.get(name) {
            None if optional => Ok(None),
            None => Err(format!("secret \"{name}\" not found")),
            Some(secret) => match secret["data"][key].as_str() {
                Some(value) => Ok(Some(decoded_text(value))),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {key} in Secret {}/{name}", self.namespace())),
            },
        }
    }

    fn whole_config_map(&self, reference: &Value) -> Result<Vec<(String, String)>, String> {
        let name = text(&reference["name"]);
        match self.sources.config_maps.get(name) {
            Some(map) => Ok(entries(&map["data"]).map(|(key, value)| (key.clone(), string(value))).collect()),
            None if reference["optional"] == true => Ok(Vec::new()),
            None => Err(format!("configmap \"{name}\" not found")),
        }
    }

    fn whole_secret(&self, reference: &Value) -> Result<Vec<(String, String)>, String> {
        let name = text(&reference["name"]);
        match self.sources.secrets.get(name) {
            Some(secret) => {
                let decode = |(key, value): (&String, &Value)| (key.clone(), decoded_text(text(value)));
                Ok(entries(&secret["data"]).map(decode).collect())
            }
            None if reference["optional"] == true => Ok(Vec::new()),
            None => Err(format!("secret \"{name}\" not found")),
        }
    }

    pub fn namespace(&self) -> &str {
        text(&self.object["metadata"]["namespace"])
    }

    fn service_env(&self) -> Vec<EnvVar> {
        let links = self.object["spec"]["enableServiceLinks"] != false;
        let namespace = self.namespace();
        let shown = self.sources.services.iter().filter(|service| {
            let master = service.namespace == "default" && service.name == "kubernetes";
            master || (links && service.namespace == namespace)
        });
        shown.flat_map(link_variables).collect()
    }
}

fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

fn decoded_text(base64: &str) -> String {
    String::from_utf8_lossy(&BASE64_STANDARD.decode(base64).unwrap_or_default()).into_owned()
}

/// `FOO_SERVICE_HOST` and the older Docker links, as kubelet makes them.
fn link_variables(service: &ServiceAddress) -> Vec<EnvVar> {
    let upper = |name: &str| name.to_uppercase().replace(['-', '.'], "_");
    let (prefix, ip) = (upper(&service.name), &service.ip);
    let mut pairs = vec![(format!("{prefix}_SERVICE_HOST"), ip.clone())];
    if let Some((_, protocol, port)) = service.ports.first() {
        pairs.push((format!("{prefix}_SERVICE_PORT"), port.to_string()));
        let url = format!("{}://{ip}:{port}", protocol.to_lowercase());
        pairs.push((format!("{prefix}_PORT"), url));
    }
    for (name, protocol, port) in &service.ports {
        if !name.is_empty() {
            pairs.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.to_string()));
        }
        let scheme = protocol.to_lowercase();
        let link = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        pairs.push((link.clone(), format!("{scheme}://{ip}:{port}")));
        pairs.push((format!("{link}_PROTO"), scheme));
        pairs.push((format!("{link}_PORT"), port.to_string()));
        pairs.push((format!("{link}_ADDR"), ip.clone()));
    }
    let verbatim = |(name, value)| EnvVar { name, value: EnvValue::Verbatim(value) };
    pairs.into_iter().map(verbatim).collect()
}

fn last_wins(env: Vec<EnvVar>) -> Vec<EnvVar> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<EnvVar> =
        env.into_iter().rev().filter(|variable| seen.insert(variable.name.clone())).collect();
    kept.reverse();
    kept
}
