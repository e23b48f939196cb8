//! Network devices and their addresses. rtnetlink(7).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// A socket to the routing tables of the network namespace that its maker was in, wherever that goes later.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its network namespace.
    pub index: i32,
    /// Its name there.
    pub name: String,
}

/// An address of a network device: what is needed to give it to the device again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    header: [u8; ADDRESS_HEADER],
    attributes: Vec<(u16, Vec<u8>)>,
}

const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;
const MASK: u16 = 0x3fff;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;

impl Route {
    /// Opens one in the calling process's network namespace.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// All network devices.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let answers = self.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK_HEADER])?;
        let link = |answer: &Vec<u8>| {
            let index = i32::from_ne_bytes(answer.get(4..8)?.try_into().ok()?);
            let name = attributes(answer.get(LINK_HEADER..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            Some(Link { index, name: String::from_utf8_lossy(name).into_owned() })
        };
        Ok(answers.iter().filter_map(link).collect())
    }

    /// The permanent addresses of the device `index` that are valid beyond its link.
    pub fn addresses(&self, index: i32) -> io::Result<Vec<Address>> {
        let answers = self.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_HEADER])?;
        Ok(answers.iter().filter_map(|answer| address(answer, index)).collect())
    }

    /// Moves the device `index` to the network namespace `namespace`, under a new name. It loses its addresses and is down. In
    /// a name that ends in `%d` the kernel puts the first number that makes it unique.
    ///
    /// Errors: `EEXIST` if the name is taken, and then it may have been moved under its old one; `EINVAL` for a device that
    /// cannot be moved.
    pub fn move_link(&self, index: i32, namespace: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut body = link_header(index, 0).to_vec();
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())?;
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())?;
        self.request(libc::RTM_SETLINK, libc::NLM_F_ACK, &body).map(drop)
    }

    /// Gives the device `index` an address that another has had.
    pub fn add_address(&self, index: i32, address: &Address) -> io::Result<()> {
        let mut body = address.header.to_vec();
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value)?;
        }
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.request(libc::RTM_NEWADDR, flags, &body).map(drop)
    }

    /// Brings the device `index` up.
    pub fn set_up(&self, index: i32) -> io::Result<()> {
        self.request(libc::RTM_SETLINK, libc::NLM_F_ACK, &link_header(index, IFF_UP)).map(drop)
    }

    /// Sends a request; returns the bodies of the answers.
    fn request(&self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence.set(self.sequence.get() + 1);
        let length = u32::try_from(HEADER + body.len()).map_err(|_| invalid())?;
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).map_err(|_| invalid())?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.get().to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::new();
        while !self.receive(&mut answers)? {}
        Ok(answers)
    }

    /// Receives a packet of answers; whether it was the last.
    fn receive(&self, answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        // As much as the kernel puts in one.
        let mut packet = vec![0; 32 << 10];
        let length = recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_TRUNC)?;
        let mut rest = packet.get(..length).ok_or_else(invalid)?;
        while !rest.is_empty() {
            let header = rest.get(..HEADER).ok_or_else(invalid)?;
            let length = usize::try_from(number(header)).map_err(|_| invalid())?;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let body = rest.get(HEADER..length).ok_or_else(invalid)?;
            let is_own = header[8..12] == self.sequence.get().to_ne_bytes();
            match libc::c_int::from(kind) {
                _ if !is_own => {}
                libc::NLMSG_DONE => return Ok(true),
                libc::NLMSG_ERROR => {
                    return match i32::from_ne_bytes(
                        body.get(..4).map_or([0; 4], |code| [code[0], code[1], code[2], code[3]]),
                    ) {
                        0 => Ok(true),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => answers.push(body.to_vec()),
            }
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
        Ok(false)
    }
}

/// `struct ifinfomsg` for the device `index`, whose `flags` are to be set.
fn link_header(index: i32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Reads an answer to `RTM_GETADDR`, if it is about the device `index` and is to be kept.
fn address(answer: &[u8], index: i32) -> Option<Address> {
    let header: [u8; ADDRESS_HEADER] = answer.get(..ADDRESS_HEADER)?.try_into().ok()?;
    let rest = answer.get(ADDRESS_HEADER..)?;
    let flags = attributes(rest).find(|(kind, _)| *kind == IFA_FLAGS);
    let flags = flags.map_or(u32::from(header[2]), |(_, value)| number(value));
    let is_kept =
        header[4..8] == index.to_ne_bytes() && header[3] == RT_SCOPE_UNIVERSE && flags & IFA_F_PERMANENT != 0;
    let wanted = |kind: u16| matches!(kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST);
    let attributes = attributes(rest).filter(|(kind, _)| wanted(*kind));
    is_kept.then(|| Address {
        header,
        attributes: attributes.map(|(kind, value)| (kind, value.to_vec())).collect(),
    })
}

/// The attributes that `bytes` consist of.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE_HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & MASK, value))
    })
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) -> io::Result<()> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).map_err(|_| invalid())?;
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
    Ok(())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let links = Route::open().and_then(|route| route.links()).expect("links");
        assert!(links.contains(&Link { index: 1, name: "lo".into() }), "{links:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Route::open().and_then(|route| route.set_up(i32::MAX)).expect_err("no such device");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn only_permanent_addresses_of_the_device_are_kept() {
        let answer = |flags: u8, scope: u8| {
            let mut answer = vec![2, 24, flags, scope];
            answer.extend(7_i32.to_ne_bytes());
            attribute(&mut answer, IFA_LOCAL, &[10, 0, 0, 1]).expect("it fits");
            attribute(&mut answer, 3, b"eth0\0").expect("it fits");
            answer
        };
        let kept = address(&answer(0x80, 0), 7).expect("kept");
        assert_eq!(kept.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(address(&answer(0, 0), 7), None);
        assert_eq!(address(&answer(0x80, 253), 7), None);
        assert_eq!(address(&answer(0x80, 0), 8), None);
        assert_eq!(address(&answer(0x80, 0)[..6], 7), None);
    }

    #[test]
    fn broken_attributes_end_the_row() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(
            attributes(&[5, 0, 1, 0, 1, 0, 0, 0, 4, 0, 2, 0]).collect::<Vec<_>>(),
            [(1, &[1][..]), (2, &[])]
        );
    }
}
