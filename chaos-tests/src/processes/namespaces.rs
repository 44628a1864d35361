//! A small network of its own for the nodes of a run: a namespace per node and one for the workers, joined by a bridge, cut by routes that lead nowhere.
//! Needs root and `ip`. Nothing of it is seen outside the namespaces, and it goes with [`Network`].

use std::{io, path::Path, process::Command};

/// The addresses are only ever used inside the namespaces.
const PREFIX: &str = "10.77.0";

/// The namespaces `TAG-hub`, `TAG-1` … `TAG-3`.
pub struct Network { tag: String }

/// The address of node `n`; 254 is the hub's.
pub fn address(n: usize) -> String { format!("{PREFIX}.{n}") }
pub const HUB: usize = 254;

fn ip(args: &str) -> io::Result<()> {
    let out = Command::new("ip").args(args.split(' ')).output()?;
    if out.status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim()))) }
}

impl Network {
    /// Makes the namespaces; an error if this machine does not let us.
    pub fn make(tag: &str) -> io::Result<Network> {
        let net = Network { tag: tag.into() };
        let hub = net.name(HUB);
        ip(&format!("netns add {hub}"))?;
        for command in ["link set lo up", "link add br0 type bridge", "link set br0 up"] { ip(&format!("-n {hub} {command}"))?; }
        ip(&format!("-n {hub} addr add {}/24 dev br0", address(HUB)))?;
        for n in 1..=3 {
            let name = net.name(n);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {hub} link add v{n} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {hub} link set v{n} master br0"))?;
            ip(&format!("-n {hub} link set v{n} up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", address(n)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Ok(net)
    }
    /// The same network, made by a process that called this one.
    pub fn made(tag: &str) -> std::mem::ManuallyDrop<Network> { std::mem::ManuallyDrop::new(Network { tag: tag.into() }) }

    pub fn name(&self, n: usize) -> String { if n == HUB { format!("{}-hub", self.tag) } else { format!("{}-{n}", self.tag) } }
    /// Runs a program as node `n`, or as the hub.
    pub fn exec(&self, n: usize) -> Vec<String> { ["ip", "netns", "exec", &self.name(n)].map(String::from).to_vec() }
    /// From now on nothing that `from` sends reaches `to`; the other way stays open.
    pub fn cut(&self, from: usize, to: usize) -> io::Result<()> { ip(&format!("-n {} route replace blackhole {}/32", self.name(from), address(to))) }
    pub fn heal(&self, from: usize, to: usize) -> io::Result<()> { ip(&format!("-n {} route del blackhole {}/32", self.name(from), address(to))) }
    /// Whether namespaces can be made here.
    pub fn possible() -> bool { Path::new("/proc/self/ns/net").exists() && Network::make(&format!("bt{}", std::process::id())).is_ok() }
}

impl Drop for Network {
    fn drop(&mut self) {
        for n in [1, 2, 3, HUB] {
            // What was never made cannot be removed.
            let _ = ip(&format!("netns del {}", self.name(n)));
        }
    }
}
