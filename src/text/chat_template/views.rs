//! Values that Python has and minijinja has not: views of dictionaries, iterators that end, and
//! methods that are not called.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, Tuple};
use minijinja::{Error, State, Value};

/// The keys, values or items of a dictionary.
#[derive(Debug)]
pub(super) struct DictView {
    dict: DynObject,
    part: Part,
}

/// What a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
    Items,
}

impl DictView {
    pub(super) fn new(dict: DynObject, part: Part) -> Self {
        Self { dict, part }
    }

    /// The type's name in Python.
    pub(super) fn name(&self) -> &'static str {
        match self.part {
            Part::Keys => "dict_keys",
            Part::Values => "dict_values",
            Part::Items => "dict_items",
        }
    }
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let Some(pairs) = self.dict.try_iter_pairs() else { return Enumerator::Empty };
        Enumerator::Iter(match self.part {
            Part::Keys => Box::new(pairs.map(|(key, _)| key)),
            Part::Values => Box::new(pairs.map(|(_, value)| value)),
            Part::Items => {
                Box::new(pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))))
            }
        })
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.dict.enumerator_len()
    }
}

/// An iterator: it is true, has no length, and nothing is left once it was gone through.
#[derive(Debug)]
pub(super) struct Generator(Mutex<Vec<Value>>);

impl Generator {
    pub(super) fn new(items: Vec<Value>) -> Self {
        Self(Mutex::new(items))
    }

    /// What is left of it.
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.take())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// A method of a value that the template names without calling it.
pub(super) struct BoundMethod {
    pub(super) value: Value,
    pub(super) name: String,
}

impl fmt::Debug for BoundMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let type_name = super::values::type_name(&self.value);
        write!(f, "<built-in method {} of {type_name} object>", self.name)
    }
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.value.call_method(state, &self.name, args)
    }
}
