//! What a node never attacks, whoever asks: the addresses at which clouds hand out credentials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// EC2, Azure, GCP, OpenStack; ECS task roles; EKS Pod Identity; Alibaba Cloud.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
];
/// EC2; EKS Pod Identity.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];

/// Checks what a target's name resolved to; every address must pass, because any of them may be dialled.
///
/// # Errors
/// One line that names the address.
pub fn check(addresses: &[SocketAddr]) -> Result<(), String> {
    match addresses.iter().find(|address| is_metadata(address.ip())) {
        Some(address) => {
            Err(format!("the target is {}, a cloud's metadata service; no load goes there", address.ip()))
        }
        None => Ok(()),
    }
}

fn is_metadata(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => METADATA_V4.contains(&ip),
        IpAddr::V6(ip) => METADATA_V6.contains(&ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_refused_however_they_are_written() {
        for (address, allowed) in [
            ("169.254.169.254:80", false),
            ("[::ffff:169.254.169.254]:80", false),
            ("[fd00:ec2::254]:80", false),
            ("100.100.100.200:80", false),
            ("169.254.1.1:80", true),
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
        ] {
            assert_eq!(check(&[address.parse().unwrap()]).is_ok(), allowed, "{address}");
        }
        let mixed = ["10.0.0.1:80".parse().unwrap(), "169.254.169.254:80".parse().unwrap()];
        assert!(check(&mixed).unwrap_err().contains("169.254.169.254"));
    }
}
