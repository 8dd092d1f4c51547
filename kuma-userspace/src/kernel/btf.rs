//! Finds where a member lies in one of the kernel's own structures, from the kernel's BTF. Keeps: every read is checked
//! against the length; what is not understood is `None`. Called by probe (offsets on kernels without the helper).

use std::path::Path;

/// `struct btf_header` (uapi/linux/btf.h).
const MAGIC: u16 = 0xeb9f;
/// `BTF_KIND_*`.
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// Bit 31 of a type's info: member offsets carry a bit-field size in their highest byte.
const KIND_FLAG: u32 = 1 << 31;

/// The types of the running kernel.
pub(super) struct Btf {
    data: Vec<u8>,
    types: std::ops::Range<usize>,
    strings: usize,
}

impl Btf {
    /// Reads and checks the header.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::parse(std::fs::read(path).ok()?)
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        if u16_at(&data, 0)? != MAGIC {
            return None;
        }
        let header = u32_at(&data, 4)? as usize;
        let start = header + u32_at(&data, 8)? as usize;
        let end = start + u32_at(&data, 12)? as usize;
        let strings = header + u32_at(&data, 16)? as usize;
        Some(Self { data, types: start..end, strings })
    }

    /// Byte offset of a direct member of a structure. Bit fields have none.
    pub(super) fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut at = self.types.start;
        while at < self.types.end {
            let info = u32_at(&self.data, at + 4)?;
            let (kind, members) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            if kind == KIND_STRUCT && self.is_named(at, structure) {
                let found = (0..members).map(|i| at + 12 + i * 12).find(|&m| self.is_named(m, member));
                if let Some(found) = found {
                    let offset = u32_at(&self.data, found + 8)?;
                    let bits = if info & KIND_FLAG == 0 { offset } else { offset & 0x00ff_ffff };
                    return bits.is_multiple_of(8).then_some(bits / 8);
                }
            }
            at += 12 + tail_bytes(kind, members);
        }
        None
    }

    /// Is the name whose string offset lies at `at` this one?
    fn is_named(&self, at: usize, name: &str) -> bool {
        let Some(offset) = u32_at(&self.data, at) else { return false };
        let begin = self.strings + offset as usize;
        self.data.get(begin..begin + name.len() + 1).is_some_and(|text| {
            text.split_last().is_some_and(|(end, text)| *end == 0 && text == name.as_bytes())
        })
    }
}

/// What follows the 12 bytes that every type begins with.
fn tail_bytes(kind: u32, members: usize) -> usize {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => members * 12,
        KIND_ENUM | KIND_FUNC_PROTO => members * 8,
        _ => 0,
    }
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One INT, then `struct net { int x; u64 net_cookie @ 64 }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0net\0x\0net_cookie\0";
        let types: Vec<u32> = vec![
            1,
            KIND_INT << 24,
            4,
            32, // int
            5,
            (KIND_STRUCT << 24) | 2,
            128,
            9,
            1,
            0,
            11,
            1,
            64 * 8, // net
        ];
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            data.extend(word.to_ne_bytes());
        }
        types.iter().for_each(|word| data.extend(word.to_ne_bytes()));
        data.extend(strings);
        data
    }

    #[test]
    fn a_member_is_found_by_name_and_an_unknown_one_is_not() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.member_offset("net", "net_cookie"), Some(64));
        assert_eq!(btf.member_offset("net", "x"), Some(0));
        assert_eq!(btf.member_offset("net", "net_cook"), None);
        assert_eq!(btf.member_offset("sock", "x"), None);
    }

    #[test]
    fn cut_off_types_are_no_answer_and_no_panic() {
        let whole = sample();
        for len in 0..whole.len() {
            if let Some(btf) = Btf::parse(whole[..len].to_vec()) {
                assert_ne!(btf.member_offset("net", "net_cookie"), Some(1));
            }
        }
        assert!(Btf::parse(b"not btf".to_vec()).is_none());
    }
}
