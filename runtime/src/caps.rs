//! Capabilities: names, sets, and what `--cap-add`, `--cap-drop` and `--privileged` make of them. capabilities(7).
//!
//! Only sets are computed here; the child applies them.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// A set of capabilities, one bit each, numbered as the kernel numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(pub u64);

/// Why a set of capabilities cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a capability of Linux.
    #[error("unknown capability {0:?}")]
    Unknown(String),
    /// Asked for by name, but newer than the running kernel.
    #[error("capability {0:?} is not known to this kernel")]
    Unsupported(String),
}

macro_rules! capabilities {
    ($($number:literal $name:ident)*) => {
        /// Names without `CAP_`; the index is the kernel's number.
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl CapSet {
            $(
                #[doc = concat!("Only `CAP_", stringify!($name), "`.")]
                pub const $name: Self = Self(1 << $number);
            )*
        }
    };
}

capabilities! {
    0 CHOWN  1 DAC_OVERRIDE  2 DAC_READ_SEARCH  3 FOWNER  4 FSETID  5 KILL  6 SETGID  7 SETUID  8 SETPCAP
    9 LINUX_IMMUTABLE  10 NET_BIND_SERVICE  11 NET_BROADCAST  12 NET_ADMIN  13 NET_RAW  14 IPC_LOCK  15 IPC_OWNER
    16 SYS_MODULE  17 SYS_RAWIO  18 SYS_CHROOT  19 SYS_PTRACE  20 SYS_PACCT  21 SYS_ADMIN  22 SYS_BOOT
    23 SYS_NICE  24 SYS_RESOURCE  25 SYS_TIME  26 SYS_TTY_CONFIG  27 MKNOD  28 LEASE  29 AUDIT_WRITE
    30 AUDIT_CONTROL  31 SETFCAP  32 MAC_OVERRIDE  33 MAC_ADMIN  34 SYSLOG  35 WAKE_ALARM  36 BLOCK_SUSPEND
    37 AUDIT_READ  38 PERFMON  39 BPF  40 CHECKPOINT_RESTORE
}

impl CapSet {
    /// No capability.
    pub const NONE: Self = Self(0);

    /// What docker gives a container that asks for nothing.
    pub const DOCKER: Self = Self(
        Self::CHOWN.0
            | Self::DAC_OVERRIDE.0
            | Self::FSETID.0
            | Self::FOWNER.0
            | Self::MKNOD.0
            | Self::NET_RAW.0
            | Self::SETGID.0
            | Self::SETUID.0
            | Self::SETFCAP.0
            | Self::SETPCAP.0
            | Self::NET_BIND_SERVICE.0
            | Self::SYS_CHROOT.0
            | Self::KILL.0
            | Self::AUDIT_WRITE.0,
    );

    /// Every capability of a kernel whose `/proc/sys/kernel/cap_last_cap` is `last_cap`.
    #[must_use]
    pub const fn all(last_cap: u8) -> Self {
        if last_cap >= 63 { Self(u64::MAX) } else { Self((1 << (last_cap + 1)) - 1) }
    }

    /// The numbers of those that are in it.
    pub fn numbers(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |number| self.0 >> number & 1 == 1)
    }

    /// The set that docker's flags ask for.
    ///
    /// `ALL` in `cap_add` stands for every capability but those named in `cap_drop`; otherwise `ALL` in `cap_drop`
    /// leaves exactly `cap_add`; otherwise `cap_drop` is taken from the default set, then `cap_add` is added, so
    /// what is named in both is held. `privileged` is everything.
    pub fn resolve(
        cap_add: &[String],
        cap_drop: &[String],
        privileged: bool,
        last_cap: u8,
    ) -> Result<Self, Error> {
        let all = Self::all(last_cap);
        let (add, add_all) = union(cap_add)?;
        let (drop, drop_all) = union(cap_drop)?;
        if let Some(name) = (add & !all).names().next() {
            return Err(Error::Unsupported(name.to_owned()));
        }
        Ok(if privileged {
            all
        } else if add_all {
            all & !drop
        } else if drop_all {
            add
        } else {
            (Self::DOCKER & all & !drop) | add
        })
    }

    /// The set of the one capability `name`: any case, with or without `CAP_`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let bare = match name.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &name[4..],
            _ => name,
        };
        NAMES.iter().position(|known| known.eq_ignore_ascii_case(bare)).map(|number| Self(1 << number))
    }

    /// The names of the members, without `CAP_`, in the kernel's order; numbers without a name are left out.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| *name)
    }

    /// Whether every member of `other` is a member.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any member of `other` is a member.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The union of `names`, and whether `ALL` was among them.
fn union(names: &[String]) -> Result<(CapSet, bool), Error> {
    let mut set = CapSet::NONE;
    let mut all = false;
    for name in names {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            all = true;
        } else {
            set |= CapSet::named(name).ok_or_else(|| Error::Unknown(name.clone()))?;
        }
    }
    Ok((set, all))
}

impl BitOr for CapSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for CapSet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for CapSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for CapSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u8 = 40;

    fn owned(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn check(add: &str, drop: &str, expect: CapSet) {
        let got = CapSet::resolve(&owned(add), &owned(drop), false, LAST);
        assert_eq!(got, Ok(expect), "--cap-add {add:?} --cap-drop {drop:?}");
    }

    #[test]
    fn the_table_has_the_kernels_41_numbers() {
        assert_eq!(NAMES.len(), 41);
        for (number, name) in NAMES.iter().enumerate() {
            assert_eq!(CapSet::named(name), Some(CapSet(1 << number)));
        }
        assert_eq!(CapSet::SYS_ADMIN, CapSet(1 << 21));
        assert_eq!(CapSet::CHECKPOINT_RESTORE, CapSet(1 << 40));
        assert_eq!(CapSet::DOCKER.0, 0xa804_25fb);
    }

    #[test]
    fn adds_and_drops_combine_as_dockers_do() {
        let all = CapSet::all(LAST);
        check("", "", CapSet::DOCKER);
        check("SYS_ADMIN", "", CapSet::DOCKER | CapSet::SYS_ADMIN);
        check("", "CHOWN", CapSet::DOCKER & !CapSet::CHOWN);
        check("CHOWN", "CHOWN", CapSet::DOCKER);
        check("", "ALL", CapSet::NONE);
        check("NET_ADMIN", "ALL", CapSet::NET_ADMIN);
        check("ALL", "", all);
        check("ALL", "SYS_ADMIN", all & !CapSet::SYS_ADMIN);
        check("ALL", "ALL", all);
        check("ALL CHOWN", "CHOWN", all & !CapSet::CHOWN);
    }

    #[test]
    fn names_take_any_case_and_an_optional_prefix() {
        for name in ["SYS_ADMIN", "sys_admin", "CAP_SYS_ADMIN", "cap_sys_Admin"] {
            check(name, "all", CapSet::SYS_ADMIN);
        }
        check("cap_all", "", CapSet::all(LAST));
    }

    #[test]
    fn an_unknown_name_is_an_error_wherever_it_stands() {
        for name in ["FOO", "", "CAP_", "CAP_CAP_CHOWN", "é", "sys admin"] {
            let unknown = Err(Error::Unknown(name.to_owned()));
            assert_eq!(CapSet::resolve(&[name.to_owned()], &[], true, LAST), unknown);
            assert_eq!(CapSet::resolve(&[], &[name.to_owned()], false, LAST), unknown);
        }
        assert_eq!(Error::Unknown("FOO".into()).to_string(), r#"unknown capability "FOO""#);
    }

    #[test]
    fn an_older_kernel_has_fewer() {
        assert_eq!(CapSet::resolve(&[], &[], true, 37), Ok(CapSet((1 << 38) - 1)));
        assert_eq!(CapSet::resolve(&owned("BPF"), &[], false, 37), Err(Error::Unsupported("BPF".into())));
        assert_eq!(CapSet::resolve(&[], &owned("BPF"), false, 37), Ok(CapSet::DOCKER));
        assert_eq!(CapSet::all(63), CapSet(u64::MAX));
    }
}
