//! The corpus of `make fuzz`, on every run of the tests: real outputs of `ip`, configurations of all kinds, and what fuzzing found.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/surfaces.rs"]
mod surfaces;

type Surface = fn(&[u8]);

#[test]
fn nothing_in_the_corpus_makes_a_reader_panic_or_a_writer_write_what_it_should_not() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let targets: [(&str, Surface); 4] = [
        ("configuration", surfaces::configuration),
        ("list", surfaces::list),
        ("ip_dumps", surfaces::ip_dumps),
        ("batch_errors", surfaces::batch_errors),
    ];
    for (target, surface) in targets {
        let files: Vec<_> = fs::read_dir(corpus.join(target))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert!(!files.is_empty(), "{target}");
        for path in files {
            let bytes = fs::read(&path).unwrap();
            surface(&bytes);
            // And cut short here and there: an `ip` that is killed writes no more.
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 100) {
                surface(&bytes[..end]);
            }
        }
    }
}
