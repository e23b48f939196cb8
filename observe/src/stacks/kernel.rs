//! Names of the kernel's functions: proc_kallsyms(5).

/// The kernel's functions by their addresses.
#[derive(Debug)]
pub struct Kernel {
    text: String,
    /// Address, and where in `text` the name is.
    functions: Vec<(u64, std::ops::Range<usize>)>,
}

impl Kernel {
    /// Reads `/proc/kallsyms`. `None` if it has no addresses, as for those without CAP_SYSLOG (`kptr_restrict`).
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        let mut functions = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let mut words = line.split_whitespace();
            let address = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            let is_code = matches!(words.next(), Some("t" | "T" | "w" | "W"));
            if let (Some(address @ 1..), true, Some(name)) = (address, is_code, words.next()) {
                let start = at + (name.as_ptr().addr() - line.as_ptr().addr());
                functions.push((address, start..start + name.len()));
            }
            at += line.len();
        }
        functions.sort_by_key(|(address, _)| *address);
        (!functions.is_empty()).then_some(Self { text, functions })
    }

    /// The function that `address` is in.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        let (_, name) = self.functions.get(after.checked_sub(1)?)?;
        self.text.get(name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_address() {
        let text = "ffffffff81000000 T _text\nffffffff81000200 t do_it\nffffffff81000300 D data\nffffffffc0000000 t of_module\t[module]\n";
        let kernel = Kernel::parse(text.to_owned()).expect("addresses");
        assert_eq!(kernel.name(0xffff_ffff_8100_0000), Some("_text"));
        assert_eq!(kernel.name(0xffff_ffff_8100_0310), Some("do_it"));
        assert_eq!(kernel.name(0xffff_ffff_c000_0001), Some("of_module"));
        assert_eq!(kernel.name(0x1000), None);
    }

    #[test]
    fn hidden_addresses_name_nothing() {
        assert!(Kernel::parse("0000000000000000 T _text\n0000000000000000 t do_it\n".to_owned()).is_none());
        assert!(Kernel::parse(String::new()).is_none());
    }
}
