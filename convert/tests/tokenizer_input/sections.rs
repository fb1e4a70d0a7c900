//! Sections of a blob that are damaged or break a rule.

use super::*;

/// The T5-like tokenizer with a charsmap that maps `a` to `ab` and `b\u{301}` to `c`, and a token that stands alone.
fn small_t5() -> Packed {
    let mut file = read_json(&fixture("t5/tokenizer.json"));
    let unit = |offset: u32, leaf: u32, label: u8| offset << 10 | leaf << 8 | u32::from(label);
    // A double array by hand: the child of the node at `offset` for byte b stands at offset ^ b, a value at the offset.
    let mut units = vec![0u32; 2048];
    units[0] = unit(0x100, 0, 0);
    units[0x161] = unit(0x161 ^ 0x200, 1, b'a');
    units[0x200] = 1 << 31;
    units[0x162] = unit(0x162 ^ 0x300, 0, b'b');
    units[0x3CC] = unit(0x3CC ^ 0x400, 0, 0xCC);
    units[0x481] = unit(0x481 ^ 0x500, 1, 0x81);
    units[0x500] = 1 << 31 | 3;
    let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let charsmap = [&(trie.len() as u32).to_le_bytes()[..], &trie, b"ab\0c\0"].concat();
    file["normalizer"]["precompiled_charsmap"] = BASE64_STANDARD.encode(charsmap).into();
    file["added_tokens"][3]["single_word"] = json!(true);
    let packed = load_files(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    let mut workspace = [0; 64];
    let normalize =
        |text: &str, workspace: &mut [u32]| packed.tokenizer().unwrap().normalize(text, workspace).unwrap().to_owned();
    assert_eq!(normalize("xab", &mut workspace), " xabb");
    assert_eq!(normalize("a\u{301}b\u{301}c b", &mut workspace), " abcc b");
    packed
}

fn sections() -> Vec<Packed> {
    let files = [
        "gpt2",
        "llama3",
        "llama2/tokenizer.json",
        "collapsed",
        "characters",
        "bert_uncased",
        "unigram_inner",
        "bpe_rules",
        "unigram_fallback",
    ];
    let mut all: Vec<Packed> = files.iter().map(|file| load(&fixture(file))).collect();
    all.push(load(&home_commands()));
    all.push(small_t5());
    all
}

#[test]
fn corrupted_sections() {
    let sections = sections();
    let (mut random, mut parsed) = (Random(11), 0);
    for n in 0..100_000 {
        let packed = &sections[n % sections.len()];
        let mut bytes = packed.section.clone();
        // Mostly single entries: lengths must agree, or everything is refused for the same reason.
        for _ in 0..=random.below(3) {
            let end = if random.below(3) == 0 { HEADER_LEN } else { bytes.len() };
            let at = random.below(end);
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] = bytes[at].wrapping_add([1, 255][random.below(2)]),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        if n % 16 == 0 {
            bytes = corrupt(&bytes, &mut random);
        }
        if let Ok(tokenizer) = Tokenizer::new(&bytes, u32::MAX) {
            parsed += 1;
            exercise(&tokenizer);
        }
    }
    println!("{parsed} of 100000 corrupted sections pass the check");
    assert!(parsed > 1_000 && parsed < 99_000);
}

#[test]
fn sections_of_a_wrong_length() {
    for packed in sections() {
        let found = packed.section.len();
        for len in 0..found {
            let error = Tokenizer::new(&packed.section[..len], u32::MAX).unwrap_err();
            let expected = if len < HEADER_LEN { HEADER_LEN } else { found };
            assert_eq!(error, TokenizerError::Length { expected: expected as u64, found: len as u64 });
        }
        let longer = [packed.section.as_slice(), &[0]].concat();
        assert!(matches!(Tokenizer::new(&longer, u32::MAX), Err(TokenizerError::Length { .. })));
    }
}

/// Where a table begins in a section.
fn table_at(section: &[u8], wanted: Table) -> usize {
    let header = Header::read(section.first_chunk().unwrap()).unwrap();
    let before = Table::ALL.into_iter().take_while(|&table| table != wanted);
    HEADER_LEN
        + before.map(|table| header.table(table)).map(|(n, width)| n as usize * usize::from(width)).sum::<usize>()
}

#[test]
fn each_rule_of_a_section() {
    let packed = load(&fixture("llama2/tokenizer.json"));
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut section = packed.section.clone();
        change(&mut section);
        Tokenizer::new(&section, u32::MAX).unwrap_err()
    };
    let put = |table, index: usize, value: u16| {
        move |section: &mut Vec<u8>| {
            let at = table_at(section, table) + 2 * index;
            section[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    };
    let header = |at: usize, value: u8| move |section: &mut Vec<u8>| section[at] = value;
    let field = |field, found| TokenizerError::Field { field, found };
    assert_eq!(refuse(&header(3, b'1')), TokenizerError::Magic { found: *b"TOK1" });
    for (at, name) in (4..).zip(["kind", "split", "digits", "prefix", "missing", "invalid", "strip", "reserved"]) {
        assert_eq!(refuse(&header(at, 99)), field(name, 99));
    }
    assert_eq!(refuse(&header(61, 1)), field("flags", 256));
    assert_eq!(refuse(&header(95, 1)), field("reserved", 1 << 24));
    assert_eq!(refuse(&|section| section[12..16].fill(0)), field("vocab", 0));
    assert_eq!(refuse(&|section| section[44..48].copy_from_slice(&800u32.to_le_bytes())), field("unknown", 800));
    assert_eq!(refuse(&|section| section[48..50].copy_from_slice(&[0x22, 2])), field("first_byte", 801));
    assert_eq!(refuse(&|section| section[48..52].fill(0xFF)), field("missing", 3));
    assert_eq!(refuse(&header(48, 4)), TokenizerError::ByteToken { token: 4 });
    assert_eq!(refuse(&put(Table::Offsets, 5, 0)), TokenizerError::Offset { token: 4 });
    assert_eq!(refuse(&put(Table::Offsets, 0, 1)), TokenizerError::Offset { token: 0 });
    assert_eq!(refuse(&put(Table::Offsets, 800, 2)), TokenizerError::Offset { token: 799 });
    assert_eq!(refuse(&put(Table::Merges, 7, 800)), TokenizerError::Range { table: Table::Merges, index: 7 });
    assert_eq!(refuse(&put(Table::Special, 0, 900)), TokenizerError::Range { table: Table::Special, index: 0 });
    assert_eq!(refuse(&put(Table::Special, 1, 0)), TokenizerError::Order { table: Table::Special, index: 1 });
    assert_eq!(
        refuse(&put(Table::TemplateStart, 0, 801)),
        TokenizerError::Range { table: Table::TemplateStart, index: 0 }
    );
    assert_eq!(refuse(&put(Table::Added, 1, 801)), TokenizerError::Range { table: Table::Added, index: 1 });
    let flags = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::AddedFlags);
        section[at] = 32;
    };
    assert_eq!(refuse(&flags), TokenizerError::Range { table: Table::AddedFlags, index: 0 });
    let twice = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Merges);
        section.copy_within(at..at + 2, at + 2);
    };
    assert_eq!(refuse(&twice), TokenizerError::Order { table: Table::Merges, index: 1 });
    let text = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Bytes);
        section[at] = 0xFF;
    };
    assert_eq!(refuse(&text), TokenizerError::Utf8 { token: 0 });
    // Every error says something.
    assert!(refuse(&text).to_string().contains("token 0 is not UTF-8"));
}

#[test]
fn each_rule_of_the_tables_of_models() {
    let (words, unigram, t5) = (load(&fixture("bert_uncased")), load(&fixture("unigram_inner")), small_t5());
    let refuse = |packed: &Packed, change: &dyn Fn(&mut Vec<u8>)| {
        let mut section = packed.section.clone();
        change(&mut section);
        Tokenizer::new(&section, u32::MAX).unwrap_err()
    };
    let put = |table, index: usize, value: u32| {
        move |section: &mut Vec<u8>| {
            let at = table_at(section, table) + 4 * index;
            section[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    };
    let field = |field, found| TokenizerError::Field { field, found };
    let range = |table, index| TokenizerError::Range { table, index };

    let vocab = words.vocab;
    assert_eq!(refuse(&words, &put(Table::Pair, 0, vocab)), range(Table::Pair, 0));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 3 << 30)), range(Table::Pair, 1));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 1 << 30 | 5)), range(Table::Pair, 1));
    assert_eq!(refuse(&words, &put(Table::Pair, 1, 2 << 30)), field("pair", 5));
    // Unknown characters dropped, and no unknown token.
    let no_unknown = |section: &mut Vec<u8>| {
        section[8] = 0;
        section[44..48].fill(0xFF);
    };
    assert_eq!(refuse(&words, &no_unknown), field("unknown", u32::MAX));

    assert_eq!(refuse(&unigram, &put(Table::Scores, 7, f32::NAN.to_bits())), TokenizerError::Score { token: 7 });
    assert_eq!(refuse(&unigram, &put(Table::Scores, 8, f32::INFINITY.to_bits())), TokenizerError::Score { token: 8 });
    let infinite = |section: &mut Vec<u8>| section[84..92].copy_from_slice(&f64::INFINITY.to_le_bytes());
    assert_eq!(refuse(&unigram, &infinite), field("unknown_score", 0x7FF0_0000));
    assert_eq!(refuse(&unigram, &|section| section[60] |= 64), field("first_byte", u32::MAX));
    assert_eq!(refuse(&t5, &put(Table::WordChars, 3, 0)), range(Table::WordChars, 3));
    // A byte token among those that text is cut into.
    let fallback = load(&fixture("unigram_fallback"));
    let byte_zero = fallback.tokenizer().unwrap().header().first_byte.unwrap() as u16;
    let byte_in_text = |section: &mut Vec<u8>| {
        let at = table_at(section, Table::Merges);
        section[at..at + 2].copy_from_slice(&byte_zero.to_le_bytes());
    };
    assert_eq!(refuse(&fallback, &byte_in_text), range(Table::Merges, 0));

    // Steps: an unknown kind, data of an odd length, data that end early.
    for (packed, index) in [(&words, 0), (&unigram, 0), (&t5, 0)] {
        for (at, value) in [(0, 0), (0, 99), (1, 6), (1, u32::MAX), (1, 0)] {
            assert_eq!(refuse(packed, &put(Table::Normalizer, at, value)), range(Table::Normalizer, index));
        }
    }
    // A map: too many rules, rules out of order, a kind without a meaning, a string beyond the others, a shift to nowhere.
    for (at, value) in
        [(2, 1 << 30), (2, u32::MAX), (5, 0), (5, 99 << 24), (3, 1 << 24), (3, 2 << 24 | 5), (3, 5 << 24)]
    {
        let broken = |section: &mut Vec<u8>| {
            put(Table::Normalizer, at, value)(section);
            put(Table::Normalizer, 4, 0xD7FA)(section);
        };
        assert_eq!(refuse(&words, &broken), range(Table::Normalizer, 0), "word {at} = {value:#x}");
    }
    // A charsmap: no array, an array beyond the table, a string beyond the others.
    for (at, value) in [(2, 0), (2, 6), (2, 1 << 30), (3, u32::MAX)] {
        assert_eq!(refuse(&unigram, &put(Table::Normalizer, at, value)), range(Table::Normalizer, 0));
    }
    // Cluster classes: too many, out of order, a class without a meaning.
    for (at, value) in [(2, u32::MAX), (4, 0), (4, 99 << 24 | 10)] {
        assert_eq!(refuse(&t5, &put(Table::Normalizer, at, value)), range(Table::Normalizer, 0));
    }
}
