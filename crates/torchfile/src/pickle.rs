//! Just enough of Python's pickle to find the tensors that `torch.save` has written.
//!
//! A pickle is a program for a small stack machine, and Python runs it: it may call any function. Here nothing is ever
//! called. Numbers, strings, tuples, lists and dictionaries are built, the three functions of PyTorch that put a
//! tensor together are understood, and whatever else a pickle would call becomes [`Value::Other`].
//!
//! The instructions are those of protocol 2, which `torch.save` writes, and what later protocols have for the same
//! values (see `Lib/pickletools.py` of CPython).

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

/// Names a value in a [`Pickle`].
pub(crate) type Id = usize;

/// What the machine builds. Lists and dictionaries grow after they are first referred to, so values refer to each
/// other by [`Id`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class, by module and name.
    Global(String),
    /// A storage: what `persistent_id` of `torch.save` made of it.
    Persistent(Id),
    /// What the function makes of the arguments, if anybody would call it.
    Call(Id, Id),
    /// Something that is no part of a tensor.
    Other,
}

/// Values that a pickle may have at most.
const MAX_VALUES: usize = 4_000_000;

/// What a pickle has built.
#[derive(Debug)]
pub(crate) struct Pickle {
    values: Vec<Value>,
    pub(crate) root: Id,
}

impl Pickle {
    pub(crate) fn value(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::Other)
    }

    /// Reads a pickle to its end.
    pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut machine = Machine { bytes, ..Machine::default() };
        loop {
            ensure!(machine.values.len() < MAX_VALUES, "its pickle holds more than {MAX_VALUES} values");
            if let Some(root) = machine.step()? {
                return Ok(Self { values: machine.values, root });
            }
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    /// What is still to be read.
    bytes: &'a [u8],
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack that MARK has noted.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction. The value of the whole at the last one.
    fn step(&mut self) -> anyhow::Result<Option<Id>> {
        let [instruction] = self.array()?;
        match instruction {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            // The memo.
            b'q' => {
                let [index] = self.array()?;
                self.memorise(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memorise(index.into())?;
            }
            0x94 => self.memorise(self.memo.len() as u64)?,
            b'h' => {
                let [index] = self.array()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index.into())?;
            }
            // Numbers and the like.
            b'K' => {
                let [number] = self.array()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()));
            }
            0x8a => {
                let [length] = self.array()?;
                let number = long(self.take(length.into())?);
                self.push(number);
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Other);
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            // Strings and bytes.
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8c | b'U' => {
                let [length] = self.array()?;
                self.text(length.into())?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            b'C' => {
                let [length] = self.array()?;
                self.opaque(length.into())?;
            }
            b'B' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.opaque(length.into())?;
            }
            0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                self.opaque(length)?;
            }
            // Containers.
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Other),
            0x85..=0x87 => {
                let count = usize::from(instruction - 0x84);
                let items = self.last(count)?;
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items));
            }
            b'l' => {
                let items = self.since_mark()?;
                self.push(Value::List(items));
            }
            b'd' => {
                let items = self.since_mark()?;
                self.push(Value::Dict(pairs(&items)));
            }
            0x90 | 0x91 => {
                self.since_mark()?;
                if instruction == 0x91 {
                    self.push(Value::Other);
                }
            }
            b'a' => {
                let items = self.last(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.last(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            // What Python would look up and call, and we only write down.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let [module, name] = self.last(2)?[..] else { bail!(BROKEN) };
                let global = match (self.value(module), self.value(name)) {
                    (Value::Text(module), Value::Text(name)) => Value::Global(format!("{module}.{name}")),
                    _ => Value::Other,
                };
                self.push(global);
            }
            b'R' | 0x81 => {
                let [function, arguments] = self.last(2)?[..] else { bail!(BROKEN) };
                let called = match self.value(function) {
                    // Its contents follow by SETITEMS.
                    Value::Global(name) if name == "collections.OrderedDict" => Value::Dict(Vec::new()),
                    _ => Value::Call(function, arguments),
                };
                self.push(called);
            }
            0x92 => {
                self.last(3)?;
                self.push(Value::Other);
            }
            // The state of an object: nothing of a tensor is in it.
            b'b' => drop(self.last(1)?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            other => bail!("its pickle has an instruction that torch.save does not write ({other:#04x})"),
        }
        Ok(None)
    }

    fn take(&mut self, length: u64) -> anyhow::Result<&'a [u8]> {
        let length = usize::try_from(length).context(BROKEN)?;
        let (taken, rest) = self.bytes.split_at_checked(length).context("its pickle is cut off")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk().context("its pickle is cut off")?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// Up to the end of a line, without it.
    fn line(&mut self) -> anyhow::Result<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n').context("its pickle is cut off")?;
        let line = self.take(end as u64)?;
        self.array::<1>()?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn text(&mut self, length: u64) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn opaque(&mut self, length: u64) -> anyhow::Result<()> {
        self.take(length)?;
        self.push(Value::Other);
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn value(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::Other)
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        self.stack.pop().context(BROKEN)
    }

    /// The last so many values, taken off the stack.
    fn last(&mut self, count: usize) -> anyhow::Result<Vec<Id>> {
        let height = self.stack.len().checked_sub(count).context(BROKEN)?;
        Ok(self.stack.split_off(height))
    }

    fn since_mark(&mut self) -> anyhow::Result<Vec<Id>> {
        let height = self.marks.pop().context(BROKEN)?;
        ensure!(height <= self.stack.len(), BROKEN);
        Ok(self.stack.split_off(height))
    }

    fn memorise(&mut self, index: u64) -> anyhow::Result<()> {
        let top = *self.stack.last().context(BROKEN)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> anyhow::Result<()> {
        let id = *self.memo.get(&index).context(BROKEN)?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> anyhow::Result<()> {
        let list = *self.stack.last().context(BROKEN)?;
        if let Some(Value::List(list)) = self.values.get_mut(list) {
            list.extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> anyhow::Result<()> {
        let dict = *self.stack.last().context(BROKEN)?;
        if let Some(Value::Dict(dict)) = self.values.get_mut(dict) {
            dict.extend(pairs(items));
        }
        Ok(())
    }
}

/// What is said of a pickle that no pickler wrote.
const BROKEN: &str = "its pickle is damaged";

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.as_chunks().0.iter().map(|[key, value]| (*key, *value)).collect()
}

/// A little-endian two's complement number of any length; `Other` when it has no place in 64 bits.
fn long(bytes: &[u8]) -> Value {
    let Some(last) = bytes.last() else { return Value::Int(0) };
    if bytes.len() > 8 {
        return Value::Other;
    }
    let mut number = [if *last >= 0x80 { 0xff } else { 0 }; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(number))
}
