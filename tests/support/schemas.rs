//! Random JSON schemas of every supported keyword, most of which some value satisfies.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// The schema number `seed`.
pub fn random(seed: u64) -> Value {
    let mut generator = Generator { random: ChaCha8Rng::seed_from_u64(seed) };
    let mut schema = generator.object(3);
    schema["$defs"] = json!({
        "leaf": generator.scalar(),
        "tree": {
            "type": "object",
            "properties": {
                "value": generator.scalar(),
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
            },
            "required": ["value"], "additionalProperties": false,
        },
    });
    schema
}

struct Generator {
    random: ChaCha8Rng,
}

impl Generator {
    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_range(0..count) == 0
    }

    fn schema(&mut self, depth: usize) -> Value {
        match self.random.random_range(0..12) {
            0..=4 => self.scalar(),
            5 if depth > 0 => self.array(depth - 1),
            6 if depth > 0 => self.tuple(depth - 1),
            7 | 8 if depth > 0 => self.object(depth - 1),
            9 if depth > 0 => self.union(depth - 1),
            10 => json!({"$ref": "#/$defs/leaf"}),
            11 => json!({"$ref": "#/$defs/tree", "description": "a tree"}),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Value {
        match self.random.random_range(0..9) {
            0 => json!({"type": "boolean"}),
            1 => json!({"type": "null"}),
            2 => self.integer(),
            3 => self.number(),
            4 => json!({"enum": ["red", "grün", 3, -1.5, true, null, {"a": [1]}, "\"\\\n"]}),
            5 => json!({ "const": self.random.random_range(-50..50) }),
            6 => json!({"type": ["string", "null"], "maxLength": self.random.random_range(0..6)}),
            _ => self.string(),
        }
    }

    fn string(&mut self) -> Value {
        let patterns =
            ["^[a-z]{2,5}$", "^(\\d{3}-)?\\d{4}$", "^[A-Z]\\w*$", "[0-9]", "^a|b$", "^é+$"];
        let formats = ["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"];
        let min = self.random.random_range(0..4);
        match self.random.random_range(0..6) {
            0 => json!({"type": "string", "pattern": patterns.choose(&mut self.random)}),
            1 => json!({"type": "string", "format": formats.choose(&mut self.random)}),
            2 => json!({"type": "string", "minLength": min, "maxLength": min + 5}),
            3 => json!({"type": "string", "pattern": "^[a-f]*$", "minLength": min, "maxLength": 7}),
            4 => json!({"type": "string", "enum": ["a", "b c", "", "日本"]}),
            _ => json!({"type": "string", "title": "text", "maxLength": 20}),
        }
    }

    fn integer(&mut self) -> Value {
        let low = self.random.random_range(-2000..2000);
        let high = low + self.random.random_range(0..1500);
        match self.random.random_range(0..5) {
            0 => json!({"type": "integer"}),
            1 => json!({"type": "integer", "minimum": low}),
            2 => json!({"type": "integer", "minimum": low, "maximum": high}),
            3 => {
                json!({"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1})
            }
            _ => json!({"type": "integer", "minimum": 0, "maximum": 90, "multipleOf": 7}),
        }
    }

    fn number(&mut self) -> Value {
        let low = f64::from(self.random.random_range(-80..80)) / 8.0;
        match self.random.random_range(0..4) {
            0 => json!({"type": "number"}),
            1 => json!({"type": "number", "minimum": low, "maximum": low + 4.5}),
            2 => json!({"type": "number", "exclusiveMinimum": low}),
            _ => json!({"type": "number", "maximum": low}),
        }
    }

    fn array(&mut self, depth: usize) -> Value {
        let min = self.random.random_range(0..3);
        let mut array = json!({
            "type": "array", "items": self.schema(depth), "minItems": min, "maxItems": min + 2,
        });
        if self.one_in(5) {
            array = json!({"type": "array", "items": array["items"]});
        }
        array
    }

    fn tuple(&mut self, depth: usize) -> Value {
        let items: Vec<Value> =
            (0..self.random.random_range(1..4)).map(|_| self.schema(depth)).collect();
        let min = self.random.random_range(0..=items.len());
        let rest = if self.one_in(2) { json!(false) } else { self.scalar() };
        json!({"type": "array", "prefixItems": items, "items": rest, "minItems": min, "maxItems": 4})
    }

    fn object(&mut self, depth: usize) -> Value {
        let names = ["id", "name", "größe", "a b", "x\"y", "nested", "list", "kind"];
        let count = self.random.random_range(0..5);
        let names: Vec<&str> = names.choose_multiple(&mut self.random, count).copied().collect();
        let mut properties = Map::new();
        for name in &names {
            properties.insert((*name).to_owned(), self.schema(depth));
        }
        let required: Vec<&str> = names.iter().copied().filter(|_| !self.one_in(3)).collect();
        let mut object = json!({"type": "object", "properties": properties, "required": required});
        match self.random.random_range(0..8) {
            0 => object["additionalProperties"] = self.scalar(),
            1 => {
                object["patternProperties"] = json!({ "^p_[a-z]$": self.scalar() });
                object["additionalProperties"] = json!(false);
            }
            2 if required.len() == names.len() => {
                object["additionalProperties"] = json!({"type": "boolean"});
                object["maxProperties"] = json!(required.len() + 1);
            }
            _ => object["additionalProperties"] = json!(false),
        }
        object
    }

    fn union(&mut self, depth: usize) -> Value {
        match self.random.random_range(0..4) {
            0 => json!({"anyOf": [self.schema(depth), self.schema(depth)]}),
            1 => json!({"oneOf": [self.string(), self.integer(), {"type": "null"}]}),
            2 => {
                let part = |name: &str, schema: Value| json!({"type": "object", "properties": {name: schema}, "required": [name]});
                json!({"allOf": [part("l", self.scalar()), part("r", self.scalar())]})
            }
            _ => {
                let mut option = |kind: &str| {
                    json!({
                        "type": "object",
                        "properties": {"kind": {"const": kind}, kind: self.scalar()},
                        "required": ["kind", kind], "additionalProperties": false,
                    })
                };
                json!({"oneOf": [option("one"), option("two")]})
            }
        }
    }
}
