//! From a specification to a grammar: on a stack of its own, within limits, once for each content.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llguidance::api::{GrammarWithLexer, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher as Parser, ParserFactory};
use moka::sync::Cache;
use rand::SeedableRng;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha8Rng;

use super::error::{GrammarError, MatchError};
use super::limits;
use super::matcher::Grammar;
use super::spec::{GrammarSpec, Source};
use super::vocabulary::{Vocabulary, Writable};

/// The stack of a compilation: recursion over the largest specification takes a part of it.
const STACK_BYTES: usize = 256 << 20;
/// Memory per byte of a specification, beside its automata: rules, and their copy for the first row.
const BYTES_PER_SOURCE_BYTE: usize = 64;

/// Texts of a client's grammar that are followed to find out whether one gets stuck, ...
const WALKS: u32 = 8;
/// ... and for how long.
const WALK_TOKENS: u32 = 32;

/// Whether somebody still waits for a grammar.
pub type Wanted<'a> = dyn Fn() -> bool + Sync + 'a;

/// Compiles grammars over one vocabulary, and remembers them.
pub struct GrammarCompiler {
    factory: ParserFactory,
    writable: Arc<Writable>,
    cache: Cache<[u8; 32], Arc<Grammar>>,
    num_compiled: AtomicUsize,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler")
            .field("grammars", &self.cache.entry_count())
            .finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// A compiler that remembers grammars of about `cache_bytes` in all.
    ///
    /// # Errors
    /// [`GrammarError::Failed`] for a vocabulary that cannot be put into a tree.
    pub fn new(vocabulary: Vocabulary, cache_bytes: u64) -> Result<Self, GrammarError> {
        let env = vocabulary.into_env();
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::from_parser(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser();
        let weigh =
            |_: &_, grammar: &Arc<Grammar>| u32::try_from(grammar.num_bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder().weigher(weigh).max_capacity(cache_bytes).build();
        let writable = Arc::new(Writable::new(env.tok_trie()));
        Ok(Self { factory, writable, cache, num_compiled: AtomicUsize::new(0) })
    }

    /// The grammar of a specification, which shares nothing with any that was given out before. Slow, if
    /// bounded: not for async threads. The same content is compiled once.
    ///
    /// # Errors
    /// Where it breaks a limit, is malformed, or cannot be satisfied.
    pub fn compile(&self, spec: GrammarSpec) -> Result<Arc<Grammar>, GrammarError> {
        self.compile_while(spec, &|| true)
    }

    /// As [`Self::compile`], as long as it is `wanted`, which is asked now and then.
    ///
    /// # Errors
    /// As [`Self::compile`]; [`GrammarError::Abandoned`] where it is no longer wanted.
    pub fn compile_while(
        &self,
        spec: GrammarSpec,
        wanted: &Wanted<'_>,
    ) -> Result<Arc<Grammar>, GrammarError> {
        // Checking a specification recurses over it as compiling it does.
        let compile = || {
            let source = spec.into_source()?;
            let key = source.key();
            loop {
                check(wanted)?;
                let compile = || self.compile_source(source.clone(), wanted).map(Arc::new);
                let compiled = self.cache.try_get_with(key, compile);
                match compiled.map_err(|error| GrammarError::clone(&error)) {
                    Ok(grammar) => return Ok(Arc::new(grammar.copy())),
                    // Somebody else began to compile it, and left.
                    Err(GrammarError::Abandoned) => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let builder = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
        std::thread::scope(|scope| {
            let worker = builder.spawn_scoped(scope, compile).map_err(|error| {
                tracing::error!(%error, "no thread for a grammar");
                GrammarError::Failed
            })?;
            // A panic is a bug in the parser, and this specification's alone.
            worker.join().unwrap_or(Err(GrammarError::Failed))
        })
    }

    /// Specifications that were compiled, and not found compiled.
    #[must_use]
    pub fn num_compiled(&self) -> usize {
        self.num_compiled.load(Ordering::Relaxed)
    }

    fn compile_source(&self, source: Source, wanted: &Wanted<'_>) -> Result<Grammar, GrammarError> {
        let refused = |error: anyhow::Error| GrammarError::from_parser(&error.to_string());
        self.num_compiled.fetch_add(1, Ordering::Relaxed);
        for token in &source.special_tokens {
            self.check_special_token(token)?;
        }
        let source_bytes = source.num_bytes();
        let is_clients = source.is_clients;
        let mut parser = self.factory.create_parser(source.into_grammars()).map_err(refused)?;
        parser.start_without_prompt();
        check(wanted)?;
        // The first tokens: that there are any, and found once for every text.
        parser.compute_mask().map_err(|error| match parser.stop_reason() {
            StopReason::NoExtensionBias => GrammarError::Unsatisfiable,
            _ => refused(error),
        })?;
        let automata = parser.parser.lexer_stats().num_bytes;
        let bytes = automata + BYTES_PER_SOURCE_BYTE * source_bytes;
        let grammar = Grammar::new(Parser::new(Ok(parser)), Arc::clone(&self.writable), bytes)
            .map_err(from_match)?;
        // What this module wrote has no dead ends; what a client wrote may have some.
        if is_clients {
            check_walks(&grammar.copy(), wanted)?;
        }
        Ok(grammar)
    }

    /// # Errors
    /// Where a special token, or every one of some, can be no part of a text.
    fn check_special_token(&self, token: &str) -> Result<(), GrammarError> {
        let trie = self.factory.tok_env().tok_trie();
        let Some(list) = token.strip_prefix("<[").and_then(|token| token.strip_suffix("]>")) else {
            // A name that nobody knows is the parser's to refuse.
            let id = trie.get_special_token(token);
            return self.check_writable(token, id.map(|id| id..=id));
        };
        if list == "*" || list.starts_with('^') {
            return Ok(());
        }
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        };
        self.check_writable(token, list.split(',').filter_map(range))
    }

    fn check_writable(
        &self,
        token: &str,
        ranges: impl IntoIterator<Item = RangeInclusive<u32>>,
    ) -> Result<(), GrammarError> {
        let within = &self.writable.within;
        let size = u32::try_from(within.len()).unwrap_or(u32::MAX);
        let mut known = false;
        for range in ranges {
            known = true;
            let last = (*range.end()).min(size.saturating_sub(1));
            if (*range.start()..=last).any(|id| within.is_allowed(id)) {
                return Ok(());
            }
        }
        if !known {
            return Ok(());
        }
        let message = format!(
            "`{token}` ends a text or is no token of the model, and can be no part of a text"
        );
        Err(GrammarError::Invalid(message))
    }
}

/// Follows a number of texts of a grammar for a while.
///
/// # Errors
/// Where a text cannot go on.
fn check_walks(grammar: &Grammar, wanted: &Wanted<'_>) -> Result<(), GrammarError> {
    for seed in 0..WALKS {
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let mut text = grammar.matcher();
        for _ in 0..WALK_TOKENS {
            check(wanted)?;
            let allowed = text.allowed().map_err(|error| match error {
                MatchError::Stuck => GrammarError::DeadEnd,
                error => from_match(error),
            })?;
            let Some(token) = allowed.iter().choose(&mut random) else { break };
            text.advance(token).map_err(from_match)?;
            if text.is_finished() {
                break;
            }
        }
    }
    Ok(())
}

fn from_match(error: MatchError) -> GrammarError {
    match error {
        MatchError::Stuck => GrammarError::Unsatisfiable,
        error => GrammarError::Invalid(error.to_string()),
    }
}

/// # Errors
/// Where nobody waits for the grammar any more.
fn check(wanted: &Wanted<'_>) -> Result<(), GrammarError> {
    if wanted() { Ok(()) } else { Err(GrammarError::Abandoned) }
}

impl Source {
    fn num_bytes(&self) -> usize {
        self.lark.len() + self.named.iter().map(|(_, lark)| lark.len()).sum::<usize>()
    }

    fn into_grammars(self) -> TopLevelGrammar {
        let named = self.named.into_iter().map(|(name, lark)| GrammarWithLexer {
            name: Some(name),
            json_schema: None,
            lark_grammar: Some(lark),
        });
        let main = GrammarWithLexer::from_lark(self.lark);
        TopLevelGrammar { grammars: [main].into_iter().chain(named).collect(), max_tokens: None }
    }
}
