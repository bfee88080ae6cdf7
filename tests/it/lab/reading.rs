//! What a host's kernel has, as the agent reads it.

use egress_routes::kernel::dump::{read_links, read_nexthops};
use egress_routes::kernel::saved;
use egress_routes::net::prefix::Family;
use egress_routes::routing::batch::Ownership;
use egress_routes::routing::state::Kernel;

use super::Lab;

impl Lab {
    /// Routes, nexthops, links and addresses.
    pub fn kernel(&self, host: &str, ownership: &Ownership) -> Kernel {
        let script =
            "for what in 'nexthop show' 'addr show'; do ip -j -N $what; echo; echo ==; done";
        let output = self.must(host, &["sh", "-ec", script]);
        let parts: Vec<&str> = output.split("==\n").collect();
        let mut kernel = Kernel::default();
        read_nexthops(parts[0].as_bytes(), &mut kernel).unwrap();
        read_links(parts[1].as_bytes(), &mut kernel).unwrap();
        for (family, flag) in [(Family::V4, "-4"), (Family::V6, "-6")] {
            let words = ["ip", flag, "route", "save", "table", "all"];
            let output = self.command(host, &words, true).output().unwrap();
            saved::read_routes(&*output.stdout, family, ownership)
                .unwrap()
                .into_kernel(&mut kernel);
        }
        kernel
    }
}
