//! The programs' maps, typed as both sides know them.

use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use skiff_ebpf_abi as abi;

use crate::Error;

/// A layout of [`abi`] as the value of a map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

macro_rules! plain {
    ($($layout:ty),*) => {$(
        // SAFETY: `repr(C)` and made of integers without padding (tested in `abi`), so any bytes are a value.
        unsafe impl aya::Pod for Plain<$layout> {}
    )*};
}
plain!(abi::Armed, abi::Slot, abi::Calls, abi::Row, abi::ExecEvent, abi::Offsets);
plain!(abi::events::Fields);
plain!(abi::QueueOffsets);
plain!(abi::harden::Recorded, abi::harden::Check, abi::harden::Thing, abi::harden::Opened);
plain!(abi::harden::UseOffsets);
plain!(abi::prefetch::Place, abi::prefetch::Chunk, abi::prefetch::Progress);
plain!(abi::stacks::Target);
plain!(abi::files::Place, abi::files::Chunk, abi::files::File, abi::files::Name, abi::files::Open);
plain!(abi::files::Fields, abi::files::Lost);
plain!(abi::trace::Settings, abi::trace::Drops);

/// The maps that the loader reads and writes.
pub(crate) struct Maps {
    pub(crate) armed: HashMap<MapData, u64, Plain<abi::Armed>>,
    pub(crate) counters: Counters,
    closing: Array<MapData, u32>,
    pub(crate) tasks: MapData,
    cpus: usize,
    /// Kernel memory of all maps.
    pub(crate) bytes: u64,
}

/// Those of them that hold what was counted.
pub(crate) struct Counters {
    slots: Array<MapData, Plain<abi::Slot>>,
    calls: Array<MapData, Plain<abi::Calls>>,
    rows: PerCpuArray<MapData, Plain<abi::Row>>,
    errors: HashMap<MapData, u64, u64>,
    execs: Array<MapData, Plain<abi::ExecEvent>>,
}

/// Everything counted in a slot, the CPUs added up.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    pub(crate) slot: abi::Slot,
    /// Rows with the call they count; a call may occur twice.
    pub(crate) rows: Vec<(u32, abi::Row)>,
    /// Failures: call, errno, count.
    pub(crate) errors: Vec<(u32, u32, u64)>,
    pub(crate) execs: Vec<abi::ExecEvent>,
}

impl Maps {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let bytes = object.maps().map(|(_, map)| memory(map)).sum();
        let mut map = |name: &str| {
            object.take_map(name).ok_or_else(|| Error::Refused {
                step: format!("look up the map {name}"),
                cause: "not in the object".into(),
            })
        };
        Ok(Self {
            armed: typed(map("ARMED")?)?,
            counters: Counters::take(&mut map)?,
            closing: typed(map("CLOSING")?)?,
            tasks: untyped(map("TASKS")?)?,
            cpus: nr_cpus().map_err(|(file, cause)| Error::refused(format!("read {file}"), &cause))?,
            bytes,
        })
    }

    /// Tasks of `slot` that are not dead.
    pub(crate) fn alive(&self, slot: u32) -> Result<u64, Error> {
        Ok(self.counters.slot(slot)?.alive)
    }

    /// Says which slot the iterator settles.
    pub(crate) fn set_closing(&mut self, slot: Option<u32>) -> Result<(), Error> {
        self.closing.set(0, slot.map_or(0, |slot| slot + 1), 0).map_err(write_error)
    }

    /// The cgroups that count in `slot`.
    pub(crate) fn cgroups(&self, slot: u32) -> Vec<u64> {
        let armed = self.armed.iter().filter_map(Result::ok);
        armed.filter(|(_, armed)| armed.0.slot == slot).map(|(id, _)| id).collect()
    }

    /// Empties `index`, whose counts were `counts`, for the next container.
    pub(crate) fn reset(&mut self, index: u32, counts: &Counts) -> Result<(), Error> {
        for row in 0..u32::try_from(counts.rows.len()).unwrap_or(abi::ROWS) {
            let empty = PerCpuValues::try_from(vec![Plain(EMPTY_ROW); self.cpus])
                .map_err(|cause| Error::refused("empty a row", &cause))?;
            self.counters.rows.set(index * abi::ROWS + row, empty, 0).map_err(write_error)?;
        }
        for (call, errno, _) in &counts.errors {
            self.counters.errors.remove(&abi::error_key(index, *call, *errno)).map_err(write_error)?;
        }
        let calls = abi::Calls { row: [0; abi::CALLS], call: [0; abi::ROWS as usize] };
        self.counters.calls.set(index, Plain(calls), 0).map_err(write_error)?;
        self.counters.slots.set(index, Plain(abi::Slot::default()), 0).map_err(write_error)
    }
}

impl Counters {
    /// Takes its maps by the names that they have in the object.
    pub(crate) fn take(map: &mut dyn FnMut(&str) -> Result<Map, Error>) -> Result<Self, Error> {
        Ok(Self {
            slots: typed(map("SLOTS")?)?,
            calls: typed(map("CALLS")?)?,
            rows: typed(map("ROWS")?)?,
            errors: typed(map("ERRORS")?)?,
            execs: typed(map("EXECS")?)?,
        })
    }

    pub(crate) fn slot(&self, slot: u32) -> Result<abi::Slot, Error> {
        Ok(self.slots.get(&slot, 0).map_err(read_error)?.0)
    }

    pub(crate) fn counts(&self, index: u32) -> Result<Counts, Error> {
        let slot = self.slot(index)?;
        let calls = self.calls.get(&index, 0).map_err(read_error)?.0;
        let claimed = slot.rows.min(u64::from(abi::ROWS));
        let rows = (0u32..).zip(calls.call).take_while(|(row, _)| u64::from(*row) < claimed);
        let rows = rows.map(|(row, call)| Ok((u32::from(call), self.row(index * abi::ROWS + row)?)));
        let execs = 0..u32::try_from(slot.execs).unwrap_or(u32::MAX).min(abi::EXECS);
        let execs = execs.map(|exec| self.execs.get(&(index * abi::EXECS + exec), 0).map(|event| event.0));
        Ok(Counts {
            slot,
            rows: rows.collect::<Result<_, Error>>()?,
            errors: self.errors_of(index)?,
            execs: execs.collect::<Result<_, _>>().map_err(read_error)?,
        })
    }

    fn row(&self, row: u32) -> Result<abi::Row, Error> {
        let cpus = self.rows.get(&row, 0).map_err(read_error)?;
        Ok(cpus.iter().fold(EMPTY_ROW, |sum, cpu| add(sum, &cpu.0)))
    }

    fn errors_of(&self, index: u32) -> Result<Vec<(u32, u32, u64)>, Error> {
        let mut errors = Vec::new();
        for entry in self.errors.iter() {
            let (key, count) = entry.map_err(read_error)?;
            let (slot, call, errno) = abi::error_parts(key);
            if slot == index {
                errors.push((call, errno, count));
            }
        }
        Ok(errors)
    }
}

pub(crate) const EMPTY_ROW: abi::Row =
    abi::Row { total_ns: 0, max_ns: 0, refused: 0, unreturned: 0, histogram: [0; abi::BUCKETS] };

/// Adds the counts of two CPUs, or of two rows of the same call.
pub(crate) fn add(mut sum: abi::Row, row: &abi::Row) -> abi::Row {
    sum.total_ns += row.total_ns;
    sum.max_ns = sum.max_ns.max(row.max_ns);
    sum.refused += row.refused;
    sum.unreturned += row.unreturned;
    for (sum, count) in sum.histogram.iter_mut().zip(row.histogram) {
        *sum += count;
    }
    sum
}

fn typed<T: TryFrom<Map, Error = aya::maps::MapError>>(map: Map) -> Result<T, Error> {
    map.try_into().map_err(|cause| Error::refused("look up a map", &cause))
}

/// A map of a type that aya only creates.
fn untyped(map: Map) -> Result<MapData, Error> {
    match map {
        Map::Unsupported(data) => Ok(data),
        _ => Err(Error::Refused { step: "look up a map".into(), cause: "of another type".into() }),
    }
}

pub(crate) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

/// The bytes that the kernel accounts `map` for, 0 if it does not say. proc(5), `/proc/pid/fdinfo`.
pub(crate) fn memory(map: &Map) -> u64 {
    let read = || {
        let fd = data(map)?.fd().as_fd().as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
    };
    read().unwrap_or(0)
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(crate) fn read_error(cause: aya::maps::MapError) -> Error {
    Error::refused("read a map", &cause)
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
pub(crate) fn write_error(cause: aya::maps::MapError) -> Error {
    Error::refused("write a map", &cause)
}
