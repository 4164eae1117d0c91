//! Text to tokens and back, byte for byte.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};
use vae_base::{TextSpec, TextUnit};

use super::TokensConfig;
use crate::DataError;

/// The number of half bytes. The bytes of a character that training text does not have are two tokens each.
const N_HALVES: usize = 16;

/// Cuts text into tokens of a vocabulary, and joins them again. Every text has tokens: a character that is not in the
/// vocabulary is written as the bytes of its UTF-8 form, so that `decode(encode(text)) == text`.
///
/// ```
/// use vae_data::{Tokenizer, TokensConfig};
///
/// # fn main() -> Result<(), vae_data::DataError> {
/// let learned = Tokenizer::learn(&TokensConfig::Character, &["abc", "bd"])?;
/// let tokenizer = Tokenizer::new(learned.spec())?;
/// assert_eq!(tokenizer.encode("ab").len(), 2);
/// assert_eq!(tokenizer.decode(&tokenizer.encode("aß€")), "aß€");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tokenizer {
    spec: TextSpec,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    /// The token of each piece.
    Pieces(HashMap<String, i64>),
    BytePair(Box<BytePair>),
}

type BytePair = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

impl Tokenizer {
    /// The tokenizer whose vocabulary is that of training texts. It depends on the texts alone, not on their order.
    ///
    /// # Errors
    /// The crate `tokenizers` refuses.
    pub fn learn<T: AsRef<str>>(
        config: &TokensConfig,
        texts: &[T],
    ) -> Result<Tokenizer, DataError> {
        let spec = match config {
            TokensConfig::Character => TextSpec {
                unit: TextUnit::Character,
                tokens: [beginning(), characters(texts)].concat(),
                merges: Vec::new(),
            },
            TokensConfig::Word(config) => {
                let known = characters(texts);
                let mut counts: HashMap<&str, u64> = HashMap::new();
                for piece in texts.iter().flat_map(|text| words(text.as_ref())) {
                    *counts.entry(piece).or_default() += 1;
                }
                let mut counted: Vec<(&str, u64)> = counts
                    .into_iter()
                    .filter(|(piece, n)| {
                        *n >= config.min_count && piece.chars().nth(1).is_some() // Not a character.
                    })
                    .collect();
                counted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
                counted.truncate(config.vocabulary);
                let pieces = counted.into_iter().map(|(piece, _)| piece.to_owned());
                TextSpec {
                    unit: TextUnit::Word,
                    tokens: [beginning(), known, pieces.collect()].concat(),
                    merges: Vec::new(),
                }
            }
            TokensConfig::BytePair(config) => byte_pairs(config.vocabulary, texts)?,
        };
        Self::new(&spec)
    }

    /// The tokenizer of a vocabulary.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself.
    pub fn new(spec: &TextSpec) -> Result<Tokenizer, DataError> {
        let inner = match spec.unit {
            TextUnit::BytePair => Inner::BytePair(Box::new(byte_pair_tokenizer(spec)?)),
            _ => {
                let pieces = spec.tokens.iter().enumerate().skip(1 + N_HALVES);
                Inner::Pieces(pieces.map(|(i, piece)| (piece.clone(), i as i64)).collect())
            }
        };
        Ok(Tokenizer {
            spec: spec.clone(),
            inner,
        })
    }

    /// The vocabulary.
    pub fn spec(&self) -> &TextSpec {
        &self.spec
    }

    /// The tokens of a text, without the end.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        match &self.inner {
            Inner::BytePair(tokenizer) => {
                // Encoding cannot fail: every byte is a token.
                let encoding = tokenizer.encode(text, false);
                let ids = encoding.map(|encoding| encoding.get_ids().to_vec());
                let ids = ids.unwrap_or_default().into_iter();
                ids.map(|id| i64::from(id) + 1).collect()
            }
            Inner::Pieces(pieces) if self.spec.unit == TextUnit::Character => spelled(text, pieces),
            Inner::Pieces(pieces) => {
                let mut tokens = Vec::new();
                for word in words(text) {
                    match pieces.get(word) {
                        Some(&token) => tokens.push(token),
                        None => tokens.extend(spelled(word, pieces)),
                    }
                }
                tokens
            }
        }
    }

    /// The text of tokens up to the first end. Bytes that are not UTF-8, which a model may produce, become `�`.
    pub fn decode(&self, tokens: &[i64]) -> String {
        let until_end = tokens.iter().take_while(|&&token| token != TextSpec::END);
        let known = until_end.filter_map(|&token| usize::try_from(token).ok());
        let known: Vec<usize> = known.filter(|&t| t < self.spec.tokens.len()).collect();
        match &self.inner {
            Inner::BytePair(tokenizer) => {
                let ids: Vec<u32> = known.into_iter().map(|token| token as u32 - 1).collect();
                tokenizer.decode(&ids, false).unwrap_or_default()
            }
            Inner::Pieces(_) => {
                let (mut bytes, mut half) = (Vec::new(), None);
                for token in known {
                    if token <= N_HALVES {
                        let low = token as u8 - 1;
                        half = match half {
                            None => Some(low),
                            Some(high) => {
                                bytes.push(high << 4 | low);
                                None
                            }
                        };
                        continue;
                    }
                    // A half byte without the other one.
                    bytes.extend(half.take().map(|_| 0xff_u8));
                    bytes.extend(self.spec.tokens[token].bytes());
                }
                bytes.extend(half.map(|_| 0xff_u8));
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// What a single token stands for, as a table shows it.
    pub fn name(&self, token: i64) -> String {
        match usize::try_from(token) {
            Ok(0) => "<end>".to_owned(),
            Ok(token) if self.spec.unit != TextUnit::BytePair && token <= N_HALVES => {
                format!("<{:x}>", token - 1)
            }
            _ => self.decode(&[token]),
        }
    }

    /// The tokens of a text as an item of `length` tokens, with the end at least once; and whether it had to be cut.
    pub fn item(&self, text: &str, length: usize) -> (Vec<i64>, bool) {
        let mut tokens = self.encode(text);
        let is_cut = tokens.len() + 1 > length;
        tokens.truncate(length.saturating_sub(1));
        tokens.resize(length, TextSpec::END);
        (tokens, is_cut)
    }
}

/// The end and the half bytes.
fn beginning() -> Vec<String> {
    let halves = (0..N_HALVES).map(|half| format!("<{half:x}>"));
    std::iter::once(String::new()).chain(halves).collect()
}

/// The characters of texts, in order.
fn characters<T: AsRef<str>>(texts: &[T]) -> Vec<String> {
    let mut found: Vec<char> = Vec::new();
    for text in texts {
        for character in text.as_ref().chars() {
            if let Err(place) = found.binary_search(&character) {
                found.insert(place, character);
            }
        }
    }
    found.into_iter().map(String::from).collect()
}

/// The characters of a word as tokens.
fn spelled(word: &str, pieces: &HashMap<String, i64>) -> Vec<i64> {
    let mut tokens = Vec::new();
    for character in word.chars() {
        let mut bytes = [0; 4];
        let character = character.encode_utf8(&mut bytes);
        match pieces.get(&*character) {
            Some(&token) => tokens.push(token),
            None => {
                let halves = |byte: u8| [byte >> 4, byte & 15];
                let halves = character.bytes().flat_map(halves);
                tokens.extend(halves.map(|half| 1 + i64::from(half)));
            }
        }
    }
    tokens
}

/// Cuts a text into words, runs of digits and single other characters, each with one space before it. Apostrophes and
/// hyphens within a word belong to it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut characters = rest.char_indices().peekable();
        let (_, mut first) = characters.next()?;
        if first == ' '
            && let Some(&(_, next)) = characters.peek()
            && !next.is_whitespace()
        {
            first = next;
            characters.next();
        }
        let belongs = |c: char| match first {
            _ if first.is_alphabetic() => c.is_alphabetic(),
            _ => first.is_numeric() && c.is_numeric(),
        };
        let mut end = rest.len();
        while let Some((i, c)) = characters.next() {
            let joins = matches!(c, '\'' | '’' | '-') && first.is_alphabetic();
            let is_joined = joins && characters.peek().is_some_and(|&(_, c)| belongs(c));
            if !belongs(c) && !is_joined {
                end = i;
                break;
            }
        }
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// The byte-pair encoding of texts with this many tokens.
fn byte_pairs<T: AsRef<str>>(vocabulary: usize, texts: &[T]) -> Result<TextSpec, DataError> {
    let mut tokenizer = BytePair::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level()));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary.saturating_sub(1))
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    tokenizer
        .train(&mut trainer, texts.iter())
        .map_err(refused)?;
    let model =
        serde_json::to_value(tokenizer.get_model()).map_err(|error| refused(error.into()))?;
    let mut known: Vec<(String, u32)> = tokenizer.get_vocab(false).into_iter().collect();
    known.sort_by_key(|(_, id)| *id);
    let merges = model["merges"].as_array().into_iter().flatten();
    let merges = merges.filter_map(|pair| {
        let text = |i: usize| pair.get(i)?.as_str().map(str::to_owned);
        Some((text(0)?, text(1)?))
    });
    let known = known.into_iter().map(|(token, _)| token);
    Ok(TextSpec {
        unit: TextUnit::BytePair,
        tokens: std::iter::once(String::new()).chain(known).collect(),
        merges: merges.collect(),
    })
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

fn byte_pair_tokenizer(spec: &TextSpec) -> Result<BytePair, DataError> {
    let tokens = spec.tokens.iter().skip(1).enumerate();
    let ids: BTreeMap<&String, usize> = tokens.map(|(i, token)| (token, i)).collect();
    let model = json!({ "type": "BPE", "vocab": ids, "merges": spec.merges });
    // From text, because the crate borrows from it.
    let model: BPE =
        serde_json::from_str(&model.to_string()).map_err(|error| refused(error.into()))?;
    let mut tokenizer = BytePair::new(model);
    tokenizer.with_pre_tokenizer(Some(byte_level()));
    tokenizer.with_decoder(Some(byte_level()));
    Ok(tokenizer)
}

fn refused(error: tokenizers::Error) -> DataError {
    let problem = format!("the byte-pair encoding of text: {error}");
    DataError::Items { problem }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{BytePairConfig, WordConfig};
    use super::*;

    const TEXTS: [&str; 4] = [
        "And God said, Let there be light: and there was light.",
        "And the light was good;  it's a well-known light of 1611",
        "naïve Ærøskøbing",
        "and the light and the light",
    ];

    fn all() -> Vec<Tokenizer> {
        let word = WordConfig {
            vocabulary: 8,
            min_count: 2,
        };
        let configs = [
            TokensConfig::Character,
            TokensConfig::Word(word),
            TokensConfig::BytePair(BytePairConfig { vocabulary: 280 }),
        ];
        let learned = configs.map(|config| Tokenizer::learn(&config, &TEXTS).unwrap());
        learned.into_iter().collect()
    }

    #[test]
    fn text_comes_back_byte_for_byte() {
        for tokenizer in all() {
            for text in TEXTS
                .into_iter()
                .chain(["", " ", "\n\t x", "日本語 🙂\0", "a\u{301}  ï"])
            {
                let tokens = tokenizer.encode(text);
                assert_eq!(tokenizer.decode(&tokens), text, "{:?}", tokenizer.spec.unit);
                let n = tokenizer.spec.tokens.len() as i64;
                assert!(tokens.iter().all(|token| (1..n).contains(token)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_byte_for_byte(texts in proptest::collection::vec(any::<String>(), 20)) {
            for tokenizer in all() {
                for text in &texts {
                    prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(text)), text);
                }
            }
        }

        #[test]
        fn any_tokens_are_some_text(tokens in proptest::collection::vec(0_i64..300, 0..30)) {
            for tokenizer in all() {
                let _ = tokenizer.decode(&tokens);
            }
        }
    }

    #[test]
    fn words_have_the_space_before_them() {
        let found: Vec<&str> = words(" a well-known 16th, it's -so\n  x-").collect();
        let wanted = [
            " a",
            " well-known",
            " 16",
            "th",
            ",",
            " it's",
            " -",
            "so",
            "\n",
            " ",
            " x",
            "-",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn frequent_words_are_tokens_and_rare_ones_are_spelled() {
        let tokenizer = &all()[1];
        assert_eq!(tokenizer.encode(" light").len(), 1);
        assert_eq!(tokenizer.encode(" there").len(), 1);
        assert_eq!(tokenizer.encode(" good").len(), 5);
        // ß is in no training text: two bytes, two halves each.
        assert_eq!(
            tokenizer.encode("ß"),
            [0xc, 0x3, 0x9, 0xf].map(|half| half + 1)
        );
        assert_eq!(tokenizer.name(0xc + 1), "<c>");
        assert_eq!(tokenizer.name(0), "<end>");
    }

    #[test]
    fn a_vocabulary_depends_on_the_texts_alone_and_survives_a_file() {
        let mut reversed = TEXTS;
        reversed.reverse();
        for tokenizer in all() {
            let config = match tokenizer.spec.unit {
                TextUnit::Character => TokensConfig::Character,
                TextUnit::Word => TokensConfig::Word(WordConfig {
                    vocabulary: 8,
                    min_count: 2,
                }),
                _ => TokensConfig::BytePair(BytePairConfig { vocabulary: 280 }),
            };
            let again = Tokenizer::learn(&config, &reversed).unwrap();
            assert_eq!(again.spec, tokenizer.spec);
            let json = serde_json::to_string(&tokenizer.spec).unwrap();
            let read: TextSpec = serde_json::from_str(&json).unwrap();
            let read = Tokenizer::new(&read).unwrap();
            assert_eq!(read.encode(TEXTS[0]), tokenizer.encode(TEXTS[0]));
        }
        let broken = TextSpec {
            unit: TextUnit::BytePair,
            tokens: vec![String::new(), "a".to_owned()],
            merges: vec![("a".to_owned(), "b".to_owned())],
        };
        assert!(Tokenizer::new(&broken).is_err());
    }

    #[test]
    fn an_item_ends_and_is_cut() {
        let tokenizer = &all()[0];
        let (item, is_cut) = tokenizer.item("God", 6);
        assert!(!is_cut);
        assert_eq!(item[3..], [0; 3]);
        assert_eq!(tokenizer.decode(&item), "God");
        let (item, is_cut) = tokenizer.item("Godly", 5);
        assert!(is_cut);
        assert_eq!(tokenizer.decode(&item), "Godl");
        assert!(!tokenizer.item("Godl", 5).1);
    }
}
