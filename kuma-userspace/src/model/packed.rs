//! Big persistent maps in little memory. Called by cp (registry, xds) for maps that were filled from nothing.

use imbl::OrdMap;

/// Below that many entries nothing is worth the effort.
const WORTH_IT: usize = 1_024;

/// The same map in about half the memory, when most of it is new: entries that came in order leave every node half full. Shares
/// no node with `map`, so a difference of the two costs everything.
pub fn packed<K: Ord + Clone, V: Clone>(map: OrdMap<K, V>, changed: usize) -> OrdMap<K, V> {
    if changed < WORTH_IT || changed < map.len() / 2 {
        return map;
    }
    // The second half of the entries goes between those of the first: no node is split again.
    let mut packed = OrdMap::new();
    for first in [0, 1] {
        let every_other = map.iter().skip(first).step_by(2);
        every_other.for_each(|(key, value)| {
            packed.insert(key.clone(), value.clone());
        });
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_map_is_the_same_map() {
        for len in [0, 1, 2, 17, WORTH_IT, WORTH_IT + 1, 5_000] {
            let map: OrdMap<usize, String> = (0..len).map(|n| (n, n.to_string())).collect();
            let packed = packed(map.clone(), len);
            assert_eq!(packed, map);
        }
    }

    #[test]
    fn a_map_of_which_most_was_there_before_stays_where_it_is() {
        let map: OrdMap<usize, usize> = (0..5_000_usize).map(|n| (n, n)).collect();
        assert!(packed(map.clone(), 2_499).ptr_eq(&map));
        assert!(packed(map.clone(), WORTH_IT - 1).ptr_eq(&map));
        assert!(!packed(map.clone(), 2_500).ptr_eq(&map));
    }
}
