//! What the sockets of a container do. The programs are attached to its cgroup alone, so that the sockets of others pay nothing.
//!
//! Whose cgroup that is stands in the storage that the kernel keeps with the cgroup for them: no look-up, and a cgroup below
//! counts as a part. Every program lets pass whatever it sees.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the only way to an atomic addition on this target")]

use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED;
use aya_ebpf::bindings::{__sk_buff, bpf_sock_ops};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_get_local_storage, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::btf_map;
use skiff_ebpf_abi::net::Net;
use skiff_ebpf_abi::{BUCKETS, bucket};

/// One element per slot.
#[btf_map]
static NET: Array<Net, 1> = Array::new();
/// The slot of a cgroup, plus 1.
#[btf_map]
static CGROUPS: CgroupStorage<u64> = CgroupStorage::new();

/// A map definition as the loader reads it from BTF. With the cgroup's id alone as key it is one for all programs on the cgroup.
#[repr(C)]
struct CgroupStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED as usize],
    key: *const u64,
    value: *const T,
    max_entries: *const [i32; 0],
}

// SAFETY: the pointers are a description for the loader and never followed.
unsafe impl<T> Sync for CgroupStorage<T> {}

impl<T> CgroupStorage<T> {
    const fn new() -> Self {
        Self { r#type: ptr::null(), key: ptr::null(), value: ptr::null(), max_entries: ptr::null() }
    }
}

const PASS: i32 = 1;
const RECEIVED: usize = 0;
const SENT: usize = 1;

const TCP_CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const RETRANS: u32 = 9;
const RTT: u32 = 12;
/// Ask for the events of retransmission and of round trips.
const RETRANS_FLAG: i32 = 1 << 1;
const RTT_FLAG: i32 = 1 << 3;

#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup_skb/ingress")]
pub fn ingress(skb: *mut __sk_buff) -> i32 {
    packet(skb, RECEIVED);
    PASS
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup_skb/egress")]
pub fn egress(skb: *mut __sk_buff) -> i32 {
    packet(skb, SENT);
    PASS
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, direction: usize) {
    let Some(net) = net() else { return };
    // SAFETY: the verifier knows the context; `net` points to a map value.
    unsafe {
        let (bytes, parts) =
            (u64::from(word(&raw const (*skb).len)), u64::from(word(&raw const (*skb).gso_segs)));
        add(&raw mut (*net).bytes[direction], bytes);
        add(&raw mut (*net).packets[direction], if parts == 0 { 1 } else { parts });
    }
}

/// Events of TCP connections.
#[unsafe(no_mangle)]
#[unsafe(link_section = "sockops")]
pub fn connections(ops: *mut bpf_sock_ops) -> i32 {
    let Some(net) = net() else { return PASS };
    // SAFETY: the verifier knows the context, of which it lets only words be read: volatile, so that none are merged. `net`
    // points to a map value.
    unsafe {
        match word(&raw const (*ops).op) {
            TCP_CONNECT => {
                add(&raw mut (*net).connects, 1);
                watch(ops);
            }
            ACTIVE_ESTABLISHED => add(&raw mut (*net).connected, 1),
            PASSIVE_ESTABLISHED => {
                add(&raw mut (*net).accepts, 1);
                watch(ops);
            }
            // Its arguments: sequence number, segments, error.
            RETRANS if word(&raw const (*ops).__bindgen_anon_1.args[2]) == 0 => {
                let segments = word(&raw const (*ops).__bindgen_anon_1.args[1]);
                add(&raw mut (*net).retransmits, u64::from(segments));
            }
            RTT => {
                // The kernel keeps eight times the microseconds.
                let ns = u64::from(word(&raw const (*ops).srtt_us)) * 125;
                // Read anew: what the compiler knows of its range it would leave out, and the verifier not know.
                let bucket = ptr::read_volatile(&bucket(ns));
                if bucket < BUCKETS {
                    add(&raw mut (*net).rtt.total_ns, ns);
                    add((&raw mut (*net).rtt.histogram).cast::<u64>().add(bucket), 1);
                }
            }
            _ => {}
        }
    }
    PASS
}

/// # Safety
///
/// `ops` is the context.
#[inline(always)]
unsafe fn watch(ops: *mut bpf_sock_ops) {
    // SAFETY: as the caller promises. Others may have asked for more.
    unsafe {
        let flags = word(&raw const (*ops).bpf_sock_ops_cb_flags) as i32 | RETRANS_FLAG | RTT_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags);
    }
}

/// # Safety
///
/// `field` is one of a context.
#[inline(always)]
unsafe fn word(field: *const u32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { ptr::read_volatile(field) }
}

/// The counts of the container whose cgroup the program is attached to.
#[inline(always)]
fn net() -> Option<*mut Net> {
    let map = ptr::from_ref(&CGROUPS).cast_mut().cast::<c_void>();
    // SAFETY: the kernel has made the storage when it attached the program.
    let slot = unsafe { *bpf_get_local_storage(map, 0).cast::<u64>() };
    if slot == 0 { None } else { NET.get_ptr_mut((slot - 1) as u32) }
}

/// # Safety
///
/// `sum` points into a map value.
#[inline(always)]
unsafe fn add(sum: *mut u64, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, value) };
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
