//! The embedded consumer protocol: what is written is read back, what Kafka's clients write is read, and no bytes make the reader panic.
use baton_coordinator::{embedded::*, ids::*};
use proptest::prelude::*;

fn partitions() -> impl Strategy<Value = Vec<Partition>> {
    // Sorted and without repetition: that is the form that is written.
    prop::collection::btree_set(("[a-c]{1,3}", 0i32..50).prop_map(|(t, p)| Partition::new(t.as_str(), p)), 0..20).prop_map(|s| s.into_iter().collect())
}

prop_compose! {
    fn subscriptions()(
        topics in prop::collection::btree_set("[a-zä-ö._-]{1,12}", 0..10), user_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        owned in partitions(), generation in any::<i32>(), rack in prop::option::of("[a-z]{1,8}"),
    ) -> Subscription {
        Subscription { topics: topics.iter().map(|t| TopicName::from(t.as_str())).collect(), user_data, owned, generation, rack }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_subscription_is_read_back_as_far_as_its_version_goes(s in subscriptions(), version in 0i16..=VERSION_MAX) {
        let mut expected = s.clone();
        if version < 1 { expected.owned = Vec::new(); }
        if version < 2 { expected.generation = NO_GENERATION; }
        if version < 3 { expected.rack = None; }
        prop_assert_eq!(Subscription::decode(&s.encode(version).unwrap()).unwrap(), expected);
    }
    #[test]
    fn an_assignment_and_user_data_are_read_back(owned in partitions(), generation in prop::option::of(any::<i32>()), user_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), version in 0i16..=VERSION_MAX) {
        let a = Assigned { partitions: owned.clone(), user_data };
        prop_assert_eq!(Assigned::decode(&a.encode(version).unwrap()).unwrap(), a);
        let s = StickyData { owned, generation };
        prop_assert_eq!(StickyData::decode(&s.encode().unwrap()).unwrap(), s);
        let c = CooperativeData { generation: generation.unwrap_or(7) };
        prop_assert_eq!(CooperativeData::decode(&c.encode()).unwrap(), c);
    }
    #[test]
    fn a_cut_off_subscription_is_refused(s in subscriptions(), version in 0i16..=VERSION_MAX, cut in 1usize..20) {
        let bytes = s.encode(version).unwrap();
        prop_assert!(Subscription::decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
    }
    #[test]
    fn a_newer_version_is_read_as_the_newest_known(s in subscriptions(), version in 4i16.., tail in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut bytes = s.encode(VERSION_MAX).unwrap();
        bytes[..2].copy_from_slice(&version.to_be_bytes());
        bytes.extend(tail);
        prop_assert_eq!(Subscription::decode(&bytes).unwrap(), s);
    }
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        // Small numbers get further than random ones.
        if small { for b in &mut bytes { *b %= 3; } }
        let _ = (Subscription::decode(&bytes), Assigned::decode(&bytes), StickyData::decode(&bytes), CooperativeData::decode(&bytes));
    }
    #[test]
    fn a_flipped_byte_never_panics_and_what_is_read_can_be_written(s in subscriptions(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = s.encode(VERSION_MAX).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(read) = Subscription::decode(&bytes) { prop_assert!(read.encode(VERSION_MAX).is_ok()); }
    }
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let s = Subscription { topics: vec!["b".into(), "a".into()], user_data: Some(vec![9]), owned: vec![Partition::new("a", 1), Partition::new("a", 0)], generation: 5, rack: Some("r".into()) };
    let bytes = [
        0, 3, // version
        0, 0, 0, 2, 0, 1, b'a', 0, 1, b'b', // topics, ascending
        0, 0, 0, 1, 9, // user data
        0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, // owned
        0, 0, 0, 5, // generation
        0, 1, b'r', // rack
    ];
    assert_eq!(s.encode(3).unwrap(), bytes);
    let null_everything = [0, 3, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255];
    assert_eq!(Subscription::decode(&null_everything).unwrap(), Subscription::default());
    assert_eq!(Assigned::decode(&[]).unwrap(), Assigned::default());
}

#[test]
fn a_refusal_says_what_and_where() {
    assert_eq!(Subscription::decode(&[0, 0, 127, 0, 0, 0]).unwrap_err().to_string(), "the subscription is malformed at byte 6: topics announces more items than there are bytes");
    // Two topics need four bytes, and three are left.
    assert_eq!(Subscription::decode(&[0, 0, 0, 0, 0, 2, 0, 0, 0]).unwrap_err().to_string(), "the subscription is malformed at byte 6: topics announces more items than there are bytes");
    assert_eq!(Subscription::decode(&[255, 255]).unwrap_err().to_string(), "the subscription is malformed at byte 2: version is negative");
    assert_eq!(Subscription::decode(&[0, 0, 0, 0, 0, 1, 0, 1, 200]).unwrap_err().to_string(), "the subscription is malformed at byte 9: topic is not UTF-8");
    assert_eq!(Assigned::decode(&[0]).unwrap_err().to_string(), "the assignment is malformed at byte 0: version breaks off");
    let long = Subscription { topics: vec!["x".repeat(40_000).as_str().into()], ..Subscription::default() };
    assert_eq!(long.encode(0).unwrap_err().to_string(), "topic has a length of 40000; the format ends at 32767");
}
