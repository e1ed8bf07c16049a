//! From a specification to a grammar: on a stack of its own, within limits, once for each content.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher as Parser, ParserFactory};
use moka::sync::Cache;

use super::error::GrammarError;
use super::limits;
use super::matcher::Grammar;
use super::spec::{GrammarSpec, Source};
use super::vocabulary::{Vocabulary, Writable};

/// The stack of a compilation: recursion over the largest specification takes a part of it.
const STACK_BYTES: usize = 256 << 20;
/// Memory per byte of a specification, beside its automata: rules, and their copy for the first row.
const BYTES_PER_SOURCE_BYTE: usize = 64;

/// Compiles grammars over one vocabulary, and remembers them.
pub struct GrammarCompiler {
    factory: ParserFactory,
    writable: Arc<Writable>,
    cache: Cache<[u8; 32], Arc<Grammar>>,
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
        Ok(Self { factory, writable, cache })
    }

    /// The grammar of a specification. Slow, if bounded, the first time: not for async threads. The
    /// same content at the same time is compiled once.
    ///
    /// # Errors
    /// Where it breaks a limit, is malformed, or cannot be satisfied.
    pub fn compile(&self, spec: GrammarSpec) -> Result<Arc<Grammar>, GrammarError> {
        // Checking a specification recurses over it as compiling it does.
        let compile = || {
            let source = spec.into_source()?;
            let key = source.key();
            self.cache
                .try_get_with(key, || self.compile_source(source).map(Arc::new))
                .map_err(|error| GrammarError::clone(&error))
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

    fn compile_source(&self, source: Source) -> Result<Grammar, GrammarError> {
        let refused = |error: anyhow::Error| GrammarError::from_parser(&error.to_string());
        let source_bytes = source.num_bytes();
        let mut parser = self.factory.create_parser(source.into_grammars()).map_err(refused)?;
        parser.start_without_prompt();
        // The first tokens: that there are any, and found once for every text.
        parser.compute_mask().map_err(|error| match parser.stop_reason() {
            StopReason::NoExtensionBias => GrammarError::Unsatisfiable,
            _ => refused(error),
        })?;
        let automata = parser.parser.lexer_stats().num_bytes;
        let bytes = automata + BYTES_PER_SOURCE_BYTE * source_bytes;
        Ok(Grammar::new(Parser::new(Ok(parser)), Arc::clone(&self.writable), bytes))
    }
}

impl Source {
    fn num_bytes(&self) -> usize {
        let schemas = self.schemas.iter().map(|(_, schema)| schema.to_string().len());
        self.lark.as_ref().map_or(0, String::len) + schemas.sum::<usize>()
    }

    fn into_grammars(self) -> TopLevelGrammar {
        let schemas = self.schemas.into_iter().map(|(name, schema)| GrammarWithLexer {
            name: Some(name),
            json_schema: Some(schema),
            lark_grammar: None,
        });
        let lark = self.lark.map(GrammarWithLexer::from_lark);
        TopLevelGrammar { grammars: lark.into_iter().chain(schemas).collect(), max_tokens: None }
    }
}
