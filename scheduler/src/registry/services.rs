//! Addresses and node ports of Services.
//!
//! What is in use is read from the Services themselves, under the registry's lock: nothing else remembers it.
//! Messages are Kubernetes'.

use super::{Registry, identity};
use api::{FieldError, Status, resource};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    net::Ipv4Addr,
    ops::RangeInclusive,
    str::FromStr,
};

/// Ports that Services may have on nodes.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Host numbers that are given out only when asked for: 1 is the API, 10 is DNS.
const STATIC_HOSTS: u32 = 256;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix_bits: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 network from /8 to /28, as 10.96.0.0/12")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let prefix_bits = bits.parse().ok().filter(|bits| (8..=28).contains(bits))?;
            let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
            let hosts = u32::MAX >> prefix_bits;
            (address & hosts == 0).then_some(Self { base: address, prefix_bits })
        };
        parse().ok_or_else(|| CidrError(text.into()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix_bits)
    }
}

impl Cidr {
    /// First address and prefix length.
    pub fn network(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::from(self.base), self.prefix_bits)
    }

    /// The `number`th address.
    pub fn host(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + number)
    }

    /// Addresses, network and broadcast included.
    fn size(&self) -> u32 {
        (u32::MAX >> self.prefix_bits) + 1
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let number = u32::from(address).wrapping_sub(self.base);
        (1..self.size() - 1).contains(&number)
    }
}

/// What other Services have.
#[derive(Debug, Default)]
pub struct Used {
    pub addresses: HashSet<Ipv4Addr>,
    pub node_ports: BTreeSet<u16>,
}

impl Registry {
    /// Addresses and ports of every Service but the named one.
    pub(super) async fn services_in_use(&self, namespace: &str, name: &str) -> Result<Used, Status> {
        let (services, _) = self.list(&resource::SERVICES, None).await?;
        let mut used = Used::default();
        for service in &services {
            if service["metadata"]["namespace"] == namespace && service["metadata"]["name"] == name {
                continue;
            }
            used.addresses.extend(address(service));
            used.node_ports.extend(ports(service).iter().filter_map(node_port));
        }
        Ok(used)
    }
}

/// Fills in the address and node ports that the Service's type asks for; `old` is the Service before an update.
pub fn allocate(
    service: &mut Value,
    old: Option<&Value>,
    used: &Used,
    cidr: &Cidr,
) -> Result<(), Vec<FieldError>> {
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if !service["spec"].is_object() {
        return Ok(());
    }
    if let Some(old) = old {
        carry_over(service, old, &kind);
    }
    let mut errors = Vec::new();
    if kind == "ExternalName" {
        let spec = service["spec"].as_object_mut().expect("checked above");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    } else {
        errors.extend(allocate_address(service, old, used, cidr).err());
    }
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] != false);
    if wants_ports {
        errors.extend(allocate_ports(service, used));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// An update that does not name the address or a port keeps it.
fn carry_over(service: &mut Value, old: &Value, kind: &str) {
    if kind != "ExternalName" && given_address(service).is_empty() && !given_address(old).is_empty() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old["spec"].get(field) {
                service["spec"][field] = value.clone();
            }
        }
    }
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        // A Service that is no NodePort any more gives its ports back, unless the update asks for them.
        for port in ports_mut(service) {
            let same = ports(old).iter().any(|before| before["nodePort"] == port["nodePort"]);
            if let Some(port) = port.as_object_mut().filter(|_| same) {
                port.remove("nodePort");
            }
        }
        return;
    }
    let taken: HashSet<u16> = ports(service).iter().filter_map(node_port).collect();
    for port in ports_mut(service) {
        let same = |before: &&Value| before["port"] == port["port"] && protocol(before) == protocol(port);
        let before = ports(old).iter().find(same).and_then(node_port);
        if let (None, Some(before)) = (node_port(port), before.filter(|port| !taken.contains(port))) {
            port["nodePort"] = json!(before);
        }
    }
}

fn allocate_address(
    service: &mut Value,
    old: Option<&Value>,
    used: &Used,
    cidr: &Cidr,
) -> Result<(), FieldError> {
    let given = given_address(service).to_owned();
    let invalid = |value: &str, why: String| FieldError {
        reason: "FieldValueInvalid",
        field: "spec.clusterIPs".into(),
        message: format!("Invalid value: [{value:?}]: {why}"),
    };
    let before = old.map(given_address).filter(|before| !before.is_empty());
    if let Some(before) = before.filter(|before| *before != given) {
        let was_external = old.is_some_and(|old| old["spec"]["type"] == "ExternalName");
        if !was_external {
            let mut error = invalid(&given, "may not change once set".into());
            error.field = "spec.clusterIPs[0]".into();
            error.message = format!("Invalid value: {before:?}: may not change once set");
            return Err(error);
        }
    }
    let chosen = match given.as_str() {
        "" => {
            let free = free_address(used, cidr);
            free.ok_or_else(|| invalid("", "failed to allocate a serviceIP: range is full".into()))?
                .to_string()
        }
        "None" => given,
        _ => {
            let address = given.parse::<Ipv4Addr>().map_err(|_| {
                invalid(&given, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into())
            })?;
            if !cidr.contains(address) {
                let why = format!(
                    "failed to allocate IP {given}: the provided IP ({given}) is not in the valid range. \
                     The range of valid IPs is {cidr}"
                );
                return Err(invalid(&given, why));
            }
            if used.addresses.contains(&address) {
                let why = format!("failed to allocate IP {given}: provided IP is already allocated");
                return Err(invalid(&given, why));
            }
            given
        }
    };
    let spec = service["spec"].as_object_mut().expect("the caller checked");
    spec.insert("clusterIP".into(), json!(chosen));
    spec.insert("clusterIPs".into(), json!([chosen]));
    spec.entry("ipFamilies").or_insert(json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert(json!("SingleStack"));
    Ok(())
}

/// A random free address above those kept for being asked for, else one of those.
fn free_address(used: &Used, cidr: &Cidr) -> Option<Ipv4Addr> {
    let last = cidr.size() - 2;
    let reserved = STATIC_HOSTS.min(cidr.size() / 16).max(16).min(last);
    let from = u32::from_le_bytes(identity::random());
    let span = last - reserved;
    let upper = (0..span).map(|step| reserved + 1 + (from % span.max(1) + step) % span.max(1));
    let lower = (11..=reserved).rev();
    upper.chain(lower).map(|number| cidr.host(number)).find(|address| !used.addresses.contains(address))
}

fn allocate_ports(service: &mut Value, used: &Used) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut own: Vec<(u16, String)> = Vec::new();
    let asked: HashSet<u16> = ports(service).iter().filter_map(node_port).collect();
    for (index, port) in ports_mut(service).enumerate() {
        let protocol = protocol(port).to_owned();
        let wanted = port["nodePort"].as_i64().unwrap_or(0);
        let mut refuse = |why: String| {
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: format!("spec.ports[{index}].nodePort"),
                message: format!("Invalid value: {wanted}: {why}"),
            });
        };
        if wanted == 0 {
            let free = |number: &u16| {
                !used.node_ports.contains(number)
                    && !asked.contains(number)
                    && !own.iter().any(|(taken, _)| taken == number)
            };
            let span = u32::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
            let from = u32::from_le_bytes(identity::random()) % span;
            let number = |step: u32| NODE_PORTS.start() + ((from + step) % span) as u16;
            match (0..span).map(number).find(free) {
                Some(number) => {
                    port["nodePort"] = json!(number);
                    own.push((number, protocol));
                }
                None => refuse("range is full".into()),
            }
            continue;
        }
        let Some(number) = u16::try_from(wanted).ok().filter(|number| NODE_PORTS.contains(number)) else {
            refuse(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            ));
            continue;
        };
        if used.node_ports.contains(&number) || own.contains(&(number, protocol.clone())) {
            refuse("provided port is already allocated".into());
        } else {
            own.push((number, protocol));
        }
    }
    errors
}

fn given_address(service: &Value) -> &str {
    let first = service["spec"]["clusterIPs"][0].as_str();
    service["spec"]["clusterIP"].as_str().filter(|given| !given.is_empty()).or(first).unwrap_or_default()
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    given_address(service).parse().ok()
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

/// What is no object is left for validation to refuse.
fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    let ports = service.get_mut("spec").and_then(|spec| spec.get_mut("ports")).and_then(Value::as_array_mut);
    ports.into_iter().flatten().filter(|port| port.is_object())
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr() -> Cidr {
        "10.96.0.0/12".parse().expect("a CIDR")
    }

    fn used(addresses: &[&str], node_ports: &[u16]) -> Used {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Used { addresses, node_ports: node_ports.iter().copied().collect() }
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn refusals_are_kubernetes_words() {
        let range = "The range of valid ports is 30000-32767";
        for (spec, expected) in [
            (
                json!({"clusterIP": "10.96.0.10"}),
                r#"spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated"#.to_owned(),
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated".to_owned(),
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
                format!("spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. {range}"),
            ),
        ] {
            let errors = allocate(&mut service(spec), None, &used(&["10.96.0.10"], &[30080]), &cidr())
                .expect_err("refused");
            assert_eq!(format!("{}: {}", errors[0].field, errors[0].message), expected);
        }
    }

    #[test]
    fn free_addresses_and_ports_are_given_out() {
        let mut headless = service(json!({"clusterIP": "None"}));
        allocate(&mut headless, None, &Used::default(), &cidr()).expect("nothing to allocate");
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));

        let mut full = used(&[], &[]);
        let small: Cidr = "10.0.0.0/28".parse().expect("a CIDR");
        full.addresses.extend((1..=13).map(|number| small.host(number)));
        let mut last = service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
        allocate(&mut last, None, &full, &small).expect("one is left");
        assert_eq!(last["spec"]["clusterIP"], "10.0.0.14");
        assert_ne!(last["spec"]["ports"][0]["nodePort"], last["spec"]["ports"][1]["nodePort"]);
        full.addresses.insert(small.host(14));
        allocate(&mut service(json!({})), None, &full, &small).expect_err("none is left");
    }

    #[test]
    fn updates_keep_what_they_do_not_name() {
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        allocate(&mut old, None, &Used::default(), &cidr()).expect("allocates");
        let mut same = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        allocate(&mut same, Some(&old), &Used::default(), &cidr()).expect("keeps");
        assert_eq!(same, old);
        let mut inner = old.clone();
        inner["spec"]["type"] = json!("ClusterIP");
        allocate(&mut inner, Some(&old), &Used::default(), &cidr()).expect("gives ports back");
        assert_eq!(inner["spec"]["ports"], json!([{"port": 80}]));
        let mut moved = service(json!({"clusterIP": "10.96.9.9"}));
        let errors = allocate(&mut moved, Some(&old), &Used::default(), &cidr()).expect_err("immutable");
        assert_eq!(errors[0].field, "spec.clusterIPs[0]");
    }
}
