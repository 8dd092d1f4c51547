//! The lint of the linked object, which needs no kernel: what the oldest kernel would refuse is found here, by name.
//! Keeps: programs call no subprogram but those of the log, and only helpers of the list. Called by build-ebpf.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

/// Every helper that the programs may call, and what guards it where a supported kernel lacks it: a word of `.rodata`
/// (the verifier prunes the call) or the program type (it exists there from 5.10 on).
const HELPERS: &[(u32, &str, &str)] = &[
    (1, "map_lookup_elem", "everywhere"),
    (2, "map_update_elem", "everywhere"),
    (3, "map_delete_elem", "everywhere"),
    (15, "get_current_uid_gid", "sock_addr"),
    (46, "get_socket_cookie", "sock_addr, sockops"),
    (49, "setsockopt", "connect; SENDMSG_UNBIND in sendmsg (5.15)"),
    (59, "sock_ops_cb_flags_set", "sockops"),
    (80, "get_current_cgroup_id", "sock_addr"),
    (84, "sk_lookup_tcp", "sock_addr"),
    (85, "sk_lookup_udp", "sock_addr"),
    (86, "sk_release", "sock_addr"),
    (107, "sk_storage_get", "sock_addr, sockops, sockopt"),
    (108, "sk_storage_delete", "sock_addr, sockops, sockopt"),
    (113, "probe_read_kernel", "NETNS_MODE probe, in sockops"),
    (122, "get_netns_cookie", "sock_addr; NETNS_MODE helper in sockops and getsockopt (5.15)"),
    (131, "ringbuf_reserve", "AYA_LOG_LEVEL"),
    (132, "ringbuf_submit", "AYA_LOG_LEVEL"),
    (133, "ringbuf_discard", "AYA_LOG_LEVEL"),
    (187, "set_retval", "SET_RETVAL (5.18)"),
];
/// Subprograms that a program may call: the log's, which the verifier removes unless user space asks for the log.
const SUBPROGRAMS: &[&str] = &["log_decision"];

const INSTRUCTION: usize = 8;
const LOAD_64: u8 = 0x18;
const CALL: u8 = 0x85;
const HELPER: u8 = 0;
const SUBPROGRAM: u8 = 1;

/// Checks an object and sums it up in a few words.
///
/// # Errors
/// The first rule that it breaks, with program and offset.
pub(crate) fn check(bytes: &[u8]) -> Result<String> {
    let object = object::File::parse(bytes).context("not an ELF object")?;
    let mut names = BTreeMap::new();
    for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        if let Some(section) = symbol.section_index() {
            names.insert((section.0, symbol.address()), symbol.name().unwrap_or("?").to_owned());
        }
    }
    let (mut programs, mut instructions) = (0, 0);
    for section in
        object.sections().filter(|section| section.kind() == SectionKind::Text && section.size() > 0)
    {
        let name = section.name()?;
        let code = section.data()?;
        let is_program = name != ".text";
        if is_program {
            programs += names.keys().filter(|(index, _)| *index == section.index().0).count();
            instructions += code.len() / INSTRUCTION;
        }
        let calls: BTreeMap<u64, String> = section
            .relocations()
            .filter_map(|(offset, relocation)| match relocation.target() {
                object::RelocationTarget::Symbol(index) => {
                    Some((offset, object.symbol_by_index(index).ok()?))
                }
                _ => None,
            })
            .map(|(offset, symbol)| (offset, called(&symbol, code, offset, &names)))
            .collect();
        let place = |offset: usize| {
            let here = names.range((section.index().0, 0)..=(section.index().0, offset as u64)).next_back();
            format!("{} + {}", here.map_or(name, |(_, program)| program), offset / INSTRUCTION)
        };
        section_follows_the_rules(code, is_program, &calls, place)?;
    }
    if object.section_by_name("license").is_none_or(|section| section.data().ok() != Some(b"Dual MIT/GPL\0"))
    {
        bail!("the section `license` does not say Dual MIT/GPL");
    }
    Ok(format!("{programs} programs, {instructions} instructions"))
}

/// The subprogram that the call at `offset` means. A local one is named by its section and, as the immediate says,
/// its place there: instructions after the call's own next one, from a call at -1.
fn called(
    symbol: &object::Symbol<'_, '_>,
    code: &[u8],
    offset: u64,
    names: &BTreeMap<(usize, u64), String>,
) -> String {
    if symbol.kind() != SymbolKind::Section {
        return symbol.name().unwrap_or("?").to_owned();
    }
    let at = offset as usize + 4;
    let immediate =
        code.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_le_bytes);
    let place = u64::try_from(i64::from(immediate) + 1).unwrap_or_default() * INSTRUCTION as u64;
    let section = symbol.section_index().map_or(0, |index| index.0);
    names.get(&(section, place)).cloned().unwrap_or_else(|| format!(".text + {place:#x}"))
}

fn section_follows_the_rules(
    code: &[u8],
    is_program: bool,
    calls: &BTreeMap<u64, String>,
    place: impl Fn(usize) -> String,
) -> Result<()> {
    let mut offset = 0;
    while let Some(instruction) = code.get(offset..offset + INSTRUCTION) {
        let opcode = instruction[0];
        let source = instruction[1] >> 4;
        let jump = i16::from_le_bytes([instruction[2], instruction[3]]);
        let immediate = u32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        match opcode {
            CALL if source == HELPER && !HELPERS.iter().any(|(number, ..)| *number == immediate) => {
                bail!(
                    "{}: helper {immediate} is not on the list of helpers with their guards",
                    place(offset)
                );
            }
            CALL if source == SUBPROGRAM && is_program => {
                let called = calls.get(&(offset as u64)).map_or("?", String::as_str);
                if !SUBPROGRAMS.iter().any(|known| called.contains(known)) {
                    bail!("{}: calls the subprogram `{called}`; copy fields, not structs", place(offset));
                }
            }
            CALL if source > SUBPROGRAM => {
                bail!("{}: calls a kernel function, absent on 5.10", place(offset))
            }
            // Byte swaps, sign-extending loads, moves and divisions, and long jumps of the instruction set v4.
            0xd7 | 0x81 | 0x89 | 0x91 | 0x06 => bail!("{}: instruction of the set v4", place(offset)),
            0xbf | 0xbc | 0x37 | 0x34 | 0x3f | 0x3c if jump != 0 => {
                bail!("{}: instruction of the set v4", place(offset));
            }
            // BPF_ATOMIC; the plain add of 32 and 64 bits is as old as BPF, the others are 5.12.
            0xc3 | 0xdb if immediate != 0 => bail!("{}: atomic operation, absent on 5.10", place(offset)),
            _ => {}
        }
        offset += if opcode == LOAD_64 { 2 * INSTRUCTION } else { INSTRUCTION };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(opcode: u8, source: u8, jump: i16, immediate: u32) -> [u8; INSTRUCTION] {
        let ([j0, j1], [i0, i1, i2, i3]) = (jump.to_le_bytes(), immediate.to_le_bytes());
        [opcode, source << 4, j0, j1, i0, i1, i2, i3]
    }

    fn verdict(code: &[u8], calls: &[(u64, &str)]) -> Result<(), String> {
        let calls = calls.iter().map(|(offset, name)| (*offset, (*name).to_owned())).collect();
        let place = |offset: usize| format!("connect4 + {}", offset / INSTRUCTION);
        section_follows_the_rules(code, true, &calls, place).map_err(|error| error.to_string())
    }

    #[test]
    fn only_listed_helpers_and_the_log_may_be_called() {
        assert_eq!(verdict(&instruction(CALL, HELPER, 0, 187), &[]), Ok(()));
        let unknown = verdict(&instruction(CALL, HELPER, 0, 160), &[]).unwrap_err();
        assert!(unknown.starts_with("connect4 + 0: helper 160"), "{unknown}");
        let call = instruction(CALL, SUBPROGRAM, 0, u32::MAX);
        assert_eq!(verdict(&call, &[(0, "_RN3log12log_decision")]), Ok(()));
        assert!(verdict(&call, &[(0, "memmove")]).unwrap_err().contains("`memmove`"));
        assert!(verdict(&instruction(CALL, 2, 0, 9), &[]).unwrap_err().contains("kernel function"));
    }

    #[test]
    fn instructions_newer_than_the_oldest_kernel_are_refused() {
        let swap = instruction(0xd7, 0, 0, 16);
        assert!(verdict(&swap, &[]).unwrap_err().contains("v4"));
        assert!(verdict(&instruction(0xdb, 0, 0, 0x01), &[]).unwrap_err().contains("atomic"));
        // The second half of a 64-bit load is data, whatever it looks like.
        let load = [instruction(LOAD_64, 0, 0, 1), swap].concat();
        assert_eq!(verdict(&load, &[]), Ok(()));
    }
}
