//! Addresses of pods on this node. Pure.

use codec::{Decode, Encode};
use netd_protocol::Cidr;
use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
};

/// Addresses given back are not given out again before this many others were.
const COOLING_MAX: usize = 64;

/// Who has which address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ipam {
    pub leases: BTreeMap<String, Ipv4Addr>,
    cooling: VecDeque<Ipv4Addr>,
}

/// The bridge's address: the first of the network.
pub fn gateway(cidr: Cidr) -> Ipv4Addr {
    Ipv4Addr::from(network(cidr) + 1)
}

fn network(cidr: Cidr) -> u32 {
    let mask = u32::MAX.checked_shl(32 - u32::from(cidr.prefix)).unwrap_or(0);
    u32::from(cidr.address) & mask
}

impl Ipam {
    /// The pod's address: the one it has, else the lowest that is free; `None` when all are taken.
    pub fn lease(&mut self, pod: &str, cidr: Cidr) -> Option<Ipv4Addr> {
        if let Some(&address) = self.leases.get(pod) {
            return Some(address);
        }
        let size = 1u32.checked_shl(32 - u32::from(cidr.prefix)).unwrap_or(u32::MAX);
        let candidates = || (2..size.saturating_sub(1)).map(|host| Ipv4Addr::from(network(cidr) + host));
        let taken: std::collections::BTreeSet<Ipv4Addr> = self.leases.values().copied().collect();
        let fresh = candidates().find(|address| !taken.contains(address) && !self.cooling.contains(address));
        let address = fresh.or_else(|| {
            let oldest = self.cooling.iter().copied().find(|address| !taken.contains(address))?;
            self.cooling.retain(|address| *address != oldest);
            Some(oldest)
        })?;
        self.leases.insert(pod.to_owned(), address);
        Some(address)
    }

    pub fn release(&mut self, pod: &str) {
        if let Some(address) = self.leases.remove(pod) {
            self.cooling.push_back(address);
            if self.cooling.len() > COOLING_MAX {
                self.cooling.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CIDR: Cidr = Cidr { address: Ipv4Addr::new(10, 244, 3, 0), prefix: 28 };

    #[test]
    fn lowest_free_and_not_the_last_given_back() {
        let mut ipam = Ipam::default();
        assert_eq!(ipam.lease("a", CIDR), Some(Ipv4Addr::new(10, 244, 3, 2)));
        assert_eq!(ipam.lease("a", CIDR), Some(Ipv4Addr::new(10, 244, 3, 2)), "asked again");
        ipam.release("a");
        assert_eq!(ipam.lease("b", CIDR), Some(Ipv4Addr::new(10, 244, 3, 3)));
        assert_eq!(gateway(CIDR), Ipv4Addr::new(10, 244, 3, 1));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let mut ipam = Ipam::default();
            for (pod, give) in steps {
                let pod = pod.to_string();
                if give {
                    let address = ipam.lease(&pod, CIDR);
                    prop_assert_eq!(address.is_none(), ipam.leases.len() == 13 && !ipam.leases.contains_key(&pod));
                } else {
                    ipam.release(&pod);
                }
                let unique: std::collections::BTreeSet<_> = ipam.leases.values().collect();
                prop_assert_eq!(unique.len(), ipam.leases.len());
            }
        }
    }
}
