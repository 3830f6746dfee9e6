//! The one order of the instances of a study: seeded, and fair to every stratum in every prefix.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Orders the instances `0..strata.len()`, each of which belongs to the stratum named at its place (a label, a source;
/// the same name for all where there is nothing to stratify by).
///
/// Instances of a stratum come in random order, and every prefix of k instances holds each stratum's exact share of k
/// to within one instance: Tijdeman's solution of the chairman assignment problem (1980), with ties broken at random.
pub fn stratified(strata: &[String], seed: u64) -> Vec<usize> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (instance, stratum) in strata.iter().enumerate() {
        members.entry(stratum).or_default().push(instance);
    }
    let mut members: Vec<Vec<usize>> = members.into_values().collect();
    members.iter_mut().for_each(|instances| instances.shuffle(&mut rng));
    if members.len() < 2 {
        return members.pop().unwrap_or_default();
    }

    // With shares m/n and e = 1/(2 strata - 2): the j-th member (from 0) of a stratum may come once k m/n >= j + e, and
    // must have come when k m/n > j + 1 - e. The earliest deadline among those that may come is always met.
    let all = strata.len() as u128;
    let parts = 2 * members.len() as u128 - 2;
    let release = |size: usize, member: usize| (all * (member as u128 * parts + 1)).div_ceil(size as u128 * parts);
    let deadline = |size: usize, member: usize| all * ((member as u128 + 1) * parts - 1) / (size as u128 * parts);
    let mut taken = vec![0_usize; members.len()];
    let mut waiting: BinaryHeap<Reverse<(u128, usize)>> = members
        .iter()
        .enumerate()
        .map(|(stratum, instances)| Reverse((release(instances.len(), 0), stratum)))
        .collect();
    let mut ready: BinaryHeap<Reverse<(u128, u64, usize)>> = BinaryHeap::new();
    let mut order = Vec::with_capacity(strata.len());
    for place in 1..=all {
        while let Some(&Reverse((released, stratum))) = waiting.peek() {
            // The second condition never holds by the theorem; with it nothing is lost if that were wrong.
            if released > place && !ready.is_empty() {
                break;
            }
            waiting.pop();
            ready.push(Reverse((deadline(members[stratum].len(), taken[stratum]), rng.random(), stratum)));
        }
        if let Some(Reverse((_, _, stratum))) = ready.pop() {
            order.push(members[stratum][taken[stratum]]);
            taken[stratum] += 1;
            if taken[stratum] < members[stratum].len() {
                waiting.push(Reverse((release(members[stratum].len(), taken[stratum]), stratum)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_stratum_is_a_shuffle() {
        let same = vec![String::new(); 50];
        let order = stratified(&same, 1);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        assert_ne!(order, stratified(&same, 2));
        assert_eq!(order, stratified(&same, 1));
        assert!(stratified(&[], 1).is_empty());
    }

    #[test]
    fn a_rare_stratum_comes_anywhere() {
        // One instance of its own among twenty, over many seeds: early, in the middle and late.
        let mut strata = vec!["common".to_owned(); 19];
        strata.extend((0..5).map(|at| format!("rare {at}")));
        let places: Vec<usize> = (0..200)
            .map(|seed| stratified(&strata, seed).iter().position(|&instance| instance == 20).unwrap_or(99))
            .collect();
        assert!(places.iter().any(|&place| place < 8) && places.iter().any(|&place| place > 16), "{places:?}");
    }

    proptest! {
        #[test]
        fn every_prefix_is_fair(labels in prop::collection::vec(prop_oneof![4 => Just(0_u8), 2 => Just(1), 1 => 2_u8..12], 0..200), seed: u64) {
            let strata: Vec<String> = labels.iter().map(u8::to_string).collect();
            let order = stratified(&strata, seed);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..labels.len()).collect::<Vec<_>>());
            for label in 0..12 {
                let size = labels.iter().filter(|other| **other == label).count() as f64;
                let mut count = 0.0;
                for (at, &instance) in order.iter().enumerate() {
                    count += f64::from(labels[instance] == label);
                    let share = size * (at + 1) as f64 / labels.len() as f64;
                    prop_assert!((count - share).abs() <= 1.0, "{} of {} after {}", count, share, at + 1);
                }
            }
        }
    }
}
