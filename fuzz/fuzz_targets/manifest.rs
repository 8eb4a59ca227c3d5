//! Any text is read as a stream of documents or refused by line, and what was read is written so that it reads back.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|text: &str| -> Corpus {
    let lines = text.lines().count().max(1);
    for entry in cli::manifest::secrets(text) {
        assert!((1..=lines + 1).contains(&entry.place.line), "{} is beyond the {lines} lines", entry.place);
    }
    for document in crds::yaml::documents(text) {
        let Ok(value) = document.value else { continue };
        let written = crds::yaml::to_string(&value).expect("what was read can be written");
        let again = crds::yaml::documents(&written);
        let [again] = &again[..] else { panic!("{} documents were read back from {written:?}", again.len()) };
        assert_eq!(again.value.as_ref().ok(), Some(&value), "{written:?}");
    }
    Corpus::Keep
});
