//! Environment and command line of a container: `$(VAR)` expanded as Kubernetes does it, image defaults filled in. Pure.

use agent_protocol::{Container, DownwardField, EnvValue};
use std::net::Ipv4Addr;

/// Addresses that only the node knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    pub pod: Option<Ipv4Addr>,
    pub host: Option<Ipv4Addr>,
}

impl Addresses {
    pub fn field(&self, field: DownwardField) -> String {
        let address = match field {
            DownwardField::PodIp | DownwardField::PodIps => self.pod.or(self.host),
            DownwardField::HostIp | DownwardField::HostIps => self.host,
        };
        address.map(|address| address.to_string()).unwrap_or_default()
    }
}

/// `NAME=value` of the image, then `HOSTNAME`, then of the spec, in order; a later one replaces an earlier one.
pub fn environment(
    image: &[String],
    hostname: &str,
    container: &Container,
    addresses: Addresses,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let set = |env: &mut Vec<(String, String)>, name: &str, value: String| match env
        .iter_mut()
        .find(|(have, _)| have == name)
    {
        Some((_, old)) => *old = value,
        None => env.push((name.to_owned(), value)),
    };
    for (name, value) in image.iter().filter_map(|variable| variable.split_once('=')) {
        set(&mut env, name, value.to_owned());
    }
    set(&mut env, "HOSTNAME", hostname.to_owned());
    // Only variables of the spec may be referred to.
    let mut known: Vec<(String, String)> = Vec::new();
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Template(template) => expand(template, &known),
            EnvValue::Verbatim(value) => value.clone(),
            EnvValue::Field(field) => addresses.field(*field),
        };
        set(&mut known, &variable.name, value.clone());
        set(&mut env, &variable.name, value);
    }
    env
}

/// Program and arguments: the spec's command replaces the image's entrypoint and cmd, its args the cmd.
pub fn command(
    entrypoint: &[String],
    cmd: &[String],
    container: &Container,
    env: &[(String, String)],
) -> Vec<String> {
    let expanded = |words: &[String]| words.iter().map(|word| expand(word, env)).collect::<Vec<_>>();
    let mut words =
        if container.command.is_empty() { entrypoint.to_vec() } else { expanded(&container.command) };
    if !container.args.is_empty() {
        words.extend(expanded(&container.args));
    } else if container.command.is_empty() {
        words.extend(cmd.iter().cloned());
    }
    words
}

/// Replaces `$(NAME)` by what `env` says; an unknown name stays as it is, `$$` is a dollar.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match env.iter().rev().find(|(have, _)| have == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - tail.len()]),
            }
            tail
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $( $", "$A $( $"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &env), expected, "{text:?}");
        }
    }
}
