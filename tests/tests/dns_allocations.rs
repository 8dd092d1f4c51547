//! A mesh query costs no heap allocation: not for an answer, not for "no such data", not for a name that is not ours.
//! A test binary of its own, because the allocator that counts is the whole binary's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use harness::resolver::view;
use kuma_dns::dns::answer::ROOM_BYTES;
use kuma_dns::dns::zone::{Outcome, Zone};
use kuma_dns::model::view::Addresses;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a constant-initialised thread local, which
// neither allocates nor runs a destructor.
#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `alloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn query(name: &str, qtype: u8, opt: bool) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt)];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("short labels"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, qtype, 0, 1]);
    if opt {
        query.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
    }
    query
}

#[test]
fn a_query_costs_no_allocation() {
    let both = Addresses {
        v4: Some("240.0.0.1".parse().expect("valid")),
        v6: Some("fd00:fd00::1".parse().expect("valid")),
    };
    let zone = Zone::new(&view(&[("redis.mesh", both)]).expect("a valid view"));
    let queries: Vec<Vec<u8>> = ["redis.mesh", "REDIS.mesh", "example.com"]
        .iter()
        .flat_map(|name| [1, 28, 65, 255].map(|qtype| (name, qtype)))
        .flat_map(|(name, qtype)| [query(name, qtype, false), query(name, qtype, true)])
        .collect();
    let mut buffer = [0; 512 + ROOM_BYTES];
    let (before, mut answered) = (ALLOCATIONS.get(), 0);
    for query in &queries {
        buffer[..query.len()].copy_from_slice(query);
        if matches!(zone.answer(&mut buffer, query.len()), Outcome::Answered(_)) {
            answered += 1;
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(answered, 16, "two of the three names are ours");
    drop(Vec::<u8>::with_capacity(1));
    assert!(ALLOCATIONS.get() > before, "the allocator does count");
}
