//! Python pickles as plain data: `torch.save`'s state dicts and nanoGPT's `meta.pkl`, read without executing anything.
//!
//! A pickle is a program for a stack machine that may call any Python function. This reader knows the opcodes that
//! pickles of plain values use (protocols 1 to 5) and a handful of names that `torch.save` writes for tensors and
//! ordered dicts; any other name is refused and named in the error. It never imports, calls or builds a Python object.
//!
//! Values live in one arena and refer to each other by index, so a pickle that shares a list a billion times, or puts a
//! list into itself, costs no more than its bytes. The number of values is capped at [`MAX_VALUES`]; reading is linear
//! in the input and does not recurse. Whoever walks a [`Value`] recursively must bound the depth.

use std::collections::HashMap;

use super::Dtype;

/// Most values that one pickle may push; beyond this it is refused. About 50 bytes of memory each.
pub const MAX_VALUES: usize = 8 << 20;

/// Why a pickle was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pickle, byte {at}: {problem}")]
pub struct PickleError {
    /// Offset of the opcode.
    pub at: usize,
    /// What was found.
    pub problem: String,
}

/// A pickle's values.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: NodeId,
}

type NodeId = u32;

#[derive(Debug)]
enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    List(Vec<NodeId>),
    Dict(Vec<(NodeId, NodeId)>),
    Global(Global<'a>),
    Storage(Storage<'a>),
    Tensor(Box<Tensor<'a>>),
}

/// The importable names that are understood.
#[derive(Clone, Copy, Debug)]
enum Global<'a> {
    OrderedDict,
    Size,
    Device,
    RebuildTensor,
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    StorageClass(&'a str),
    /// `torch.float32` and its like.
    Dtype(&'a str),
}

/// The memory that tensors are views of.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage<'a> {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Name of the archive's entry under `data/`.
    pub key: &'a str,
    /// Elements.
    pub len: u64,
}

/// A tensor: a strided view of a storage. Nothing here is checked against the storage's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// What it is a view of.
    pub storage: Storage<'a>,
    /// Element of the storage where it begins.
    pub offset: u64,
    /// Size of each dimension.
    pub shape: Vec<u64>,
    /// Elements from one index to the next, for each dimension.
    pub strides: Vec<u64>,
}

/// One value of a [`Pickle`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Value<'p> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// `int`, if it fits 64 bits.
    Int(i64),
    /// `float`.
    Float(f64),
    /// `str`.
    Str(&'p str),
    /// `bytes`.
    Bytes(&'p [u8]),
    /// `list`, `tuple` or `torch.Size`.
    List(List<'p>),
    /// `dict` or `OrderedDict`.
    Dict(Dict<'p>),
    /// `torch.Tensor` or `torch.nn.Parameter`.
    Tensor(&'p Tensor<'p>),
    /// A name without content of its own, such as `torch.float32`.
    Name(&'p str),
}

/// A list or tuple of a [`Pickle`].
#[derive(Clone, Copy, Debug)]
pub struct List<'p> {
    pickle: &'p Pickle<'p>,
    items: &'p [NodeId],
}

/// A dict of a [`Pickle`].
#[derive(Clone, Copy, Debug)]
pub struct Dict<'p> {
    pickle: &'p Pickle<'p>,
    items: &'p [(NodeId, NodeId)],
}

impl<'p> List<'p> {
    /// The items in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Value<'p>> {
        self.items.iter().map(move |&id| self.pickle.value(id))
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.items.is_empty()
    }
}

impl<'p> Dict<'p> {
    /// Keys and values in the order of insertion. A key that was set twice comes twice; Python keeps the later value.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (Value<'p>, Value<'p>)> {
        self.items.iter().map(move |&(key, value)| (self.pickle.value(key), self.pickle.value(value)))
    }

    /// The value of a string key.
    pub fn get(self, key: &str) -> Option<Value<'p>> {
        let mut from_the_end = self.items.iter().rev();
        let found = from_the_end.find(|(k, _)| matches!(self.pickle.value(*k), Value::Str(s) if s == key));
        found.map(|&(_, value)| self.pickle.value(value))
    }

    /// How many insertions there were.
    pub fn len(self) -> usize {
        self.items.len()
    }

    /// Whether there were none.
    pub fn is_empty(self) -> bool {
        self.items.is_empty()
    }
}

impl<'p> Value<'p> {
    /// The value's type as an error message names it.
    pub fn kind(self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Str(_) => "a str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list or tuple",
            Value::Dict(_) => "a dict",
            Value::Tensor(_) => "a tensor",
            Value::Name(_) => "a torch name",
        }
    }
}

impl Pickle<'_> {
    /// The value the pickle stands for.
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    fn value(&self, id: NodeId) -> Value<'_> {
        match self.nodes.get(id as usize) {
            None | Some(Node::None) => Value::None,
            Some(Node::Bool(b)) => Value::Bool(*b),
            Some(Node::Int(i)) => Value::Int(*i),
            Some(Node::Float(f)) => Value::Float(*f),
            Some(Node::Str(s)) => Value::Str(s),
            Some(Node::Bytes(b)) => Value::Bytes(b),
            Some(Node::List(items)) => Value::List(List { pickle: self, items }),
            Some(Node::Dict(items)) => Value::Dict(Dict { pickle: self, items }),
            Some(Node::Tensor(tensor)) => Value::Tensor(tensor),
            Some(Node::Global(Global::Dtype(name) | Global::StorageClass(name))) => Value::Name(name),
            Some(Node::Global(_)) => Value::Name("a callable"),
            Some(Node::Storage(_)) => Value::Name("a storage"),
        }
    }
}

/// Reads one pickle from the start of `bytes`; what follows its end is ignored.
///
/// # Errors
/// Truncated or malformed input, an opcode or name that is not understood, more than [`MAX_VALUES`] values.
pub fn read(bytes: &[u8]) -> Result<Pickle<'_>, PickleError> {
    let mut machine = Machine {
        input: bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        pushed: 0,
    };
    let mut opcode_at = 0;
    match machine.run(&mut opcode_at) {
        Ok(root) => Ok(Pickle { nodes: machine.nodes, root }),
        Err(problem) => Err(PickleError { at: opcode_at, problem }),
    }
}

/// Opcodes, named as in Python's `pickletools`.
mod op {
    pub(super) const MARK: u8 = b'(';
    pub(super) const STOP: u8 = b'.';
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const FRAME: u8 = 0x95;
    pub(super) const NONE: u8 = b'N';
    pub(super) const NEWTRUE: u8 = 0x88;
    pub(super) const NEWFALSE: u8 = 0x89;
    pub(super) const BININT: u8 = b'J';
    pub(super) const BININT1: u8 = b'K';
    pub(super) const BININT2: u8 = b'M';
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const BINFLOAT: u8 = b'G';
    pub(super) const BINUNICODE: u8 = b'X';
    pub(super) const SHORT_BINUNICODE: u8 = 0x8c;
    pub(super) const BINUNICODE8: u8 = 0x8d;
    pub(super) const BINBYTES: u8 = b'B';
    pub(super) const SHORT_BINBYTES: u8 = b'C';
    pub(super) const BINBYTES8: u8 = 0x8e;
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const APPEND: u8 = b'a';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const TUPLE3: u8 = 0x87;
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const SETITEM: u8 = b's';
    pub(super) const SETITEMS: u8 = b'u';
    pub(super) const BINPUT: u8 = b'q';
    pub(super) const LONG_BINPUT: u8 = b'r';
    pub(super) const MEMOIZE: u8 = 0x94;
    pub(super) const BINGET: u8 = b'h';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const STACK_GLOBAL: u8 = 0x93;
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const BUILD: u8 = b'b';
    pub(super) const BINPERSID: u8 = b'Q';
}

/// The stack machine. Errors are the problem alone; [`read`] adds the position.
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<NodeId>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, NodeId>,
    /// Pushes so far: bounds nodes, stack and the items of all lists and dicts together.
    pushed: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self, opcode_at: &mut usize) -> Result<NodeId, String> {
        loop {
            *opcode_at = self.at;
            let [opcode] = self.array()?;
            match opcode {
                op::PROTO => {
                    let [version] = self.array()?;
                    if !(2..=5).contains(&version) {
                        return Err(format!("protocol {version}; protocols 1 to 5 are understood"));
                    }
                }
                op::FRAME => drop(self.array::<8>()?),
                op::STOP => return self.pop(),
                op::MARK => {
                    self.count()?;
                    self.marks.push(self.stack.len());
                }
                op::NONE => self.push(Node::None)?,
                op::NEWTRUE => self.push(Node::Bool(true))?,
                op::NEWFALSE => self.push(Node::Bool(false))?,
                op::BININT => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(value.into()))?;
                }
                op::BININT1 => {
                    let [value] = self.array()?;
                    self.push(Node::Int(value.into()))?;
                }
                op::BININT2 => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(value.into()))?;
                }
                op::LONG1 => {
                    let value = self.long1()?;
                    self.push(Node::Int(value))?;
                }
                op::BINFLOAT => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Node::Float(value))?;
                }
                op::SHORT_BINUNICODE | op::BINUNICODE | op::BINUNICODE8 => {
                    let bytes = self.counted(opcode)?;
                    let text = std::str::from_utf8(bytes).map_err(|e| format!("a str that is not UTF-8: {e}"))?;
                    self.push(Node::Str(text))?;
                }
                op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 => {
                    let bytes = self.counted(opcode)?;
                    self.push(Node::Bytes(bytes))?;
                }
                op::EMPTY_LIST | op::EMPTY_TUPLE => self.push(Node::List(Vec::new()))?,
                op::EMPTY_DICT => self.push(Node::Dict(Vec::new()))?,
                op::TUPLE => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                    let items = self.pop_many(usize::from(opcode - op::TUPLE1) + 1)?;
                    self.push(Node::List(items))?;
                }
                op::APPEND => {
                    let items = self.pop_many(1)?;
                    self.append(items)?;
                }
                op::APPENDS => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                op::SETITEM => {
                    let items = self.pop_many(2)?;
                    self.set_items(&items)?;
                }
                op::SETITEMS => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                op::BINPUT => {
                    let [index] = self.array()?;
                    self.memoize(index.into())?;
                }
                op::LONG_BINPUT => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memoize(index)?;
                }
                op::MEMOIZE => {
                    let index = u32::try_from(self.memo.len()).map_err(|_| "too many memo entries".to_string())?;
                    self.memoize(index)?;
                }
                op::BINGET => {
                    let [index] = self.array()?;
                    self.recall(index.into())?;
                }
                op::LONG_BINGET => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index)?;
                }
                op::GLOBAL => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Global(Global::find(module, name)?))?;
                }
                op::STACK_GLOBAL => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(Node::Str(module)), Some(Node::Str(name))) = (self.node(module), self.node(name)) else {
                        return Err("a global whose name is not a str".into());
                    };
                    self.push(Node::Global(Global::find(module, name)?))?;
                }
                op::REDUCE => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.call(callable, arguments)?;
                }
                op::BUILD => {
                    // A state dict's `_metadata` (module versions): of no use here.
                    self.pop()?;
                    if !matches!(self.top()?, Node::Dict(_)) {
                        return Err("state set on something that is not an OrderedDict".into());
                    }
                }
                op::BINPERSID => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(Node::Storage(storage))?;
                }
                _ => {
                    let shown = char::from(opcode).escape_default();
                    return Err(format!("opcode {opcode:#04x} (`{shown}`) is not used by pickles of plain data"));
                }
            }
        }
    }

    /// Calls one of the known constructors.
    fn call(&mut self, callable: NodeId, arguments: NodeId) -> Result<(), String> {
        let Some(&Node::Global(global)) = self.node(callable) else {
            return Err("a call of something that is not a known name".into());
        };
        let Some(Node::List(items)) = self.node(arguments) else {
            return Err("a call whose arguments are not a tuple".into());
        };
        match (global, items.as_slice()) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::Size, &[sizes]) if matches!(self.node(sizes), Some(Node::List(_))) => self.push_id(sizes),
            (Global::Device, &[name, ..]) if matches!(self.node(name), Some(Node::Str(_))) => self.push_id(name),
            (Global::RebuildParameter, &[tensor, ..]) if matches!(self.node(tensor), Some(Node::Tensor(_))) => {
                self.push_id(tensor)
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Some(Node::Storage(storage)) = self.node(storage) else {
                    return Err("a tensor without a storage".into());
                };
                let tensor = Tensor {
                    storage: storage.clone(),
                    offset: self.size(offset)?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                // A shape that many tensors share through the memo is copied for each.
                self.pushed += tensor.shape.len() + tensor.strides.len();
                if tensor.shape.len() != tensor.strides.len() {
                    let (shape, strides) = (tensor.shape.len(), tensor.strides.len());
                    return Err(format!("a tensor of {shape} dimensions with {strides} strides"));
                }
                self.push(Node::Tensor(Box::new(tensor)))
            }
            _ => Err(format!("a call of {} with {} arguments of unexpected types", global.name(), items.len())),
        }
    }

    /// The storage that a persistent id `('storage', class, key, location, elements)` names.
    fn storage(&self, id: NodeId) -> Result<Storage<'a>, String> {
        let problem =
            || "a persistent id that is not torch.save's ('storage', class, key, location, length)".to_string();
        let Some(Node::List(items)) = self.node(id) else { return Err(problem()) };
        let &[tag, class, key, _location, len] = items.as_slice() else { return Err(problem()) };
        match (self.node(tag), self.node(class), self.node(key)) {
            (Some(Node::Str("storage")), Some(Node::Global(Global::StorageClass(class))), Some(Node::Str(key))) => {
                Ok(Storage { dtype: Dtype::of_storage(class), key, len: self.size(len)? })
            }
            _ => Err(problem()),
        }
    }

    fn size(&self, id: NodeId) -> Result<u64, String> {
        match self.node(id) {
            Some(&Node::Int(i)) => u64::try_from(i).map_err(|_| format!("a size of {i}")),
            _ => Err("a size that is not an int".into()),
        }
    }

    fn sizes(&self, id: NodeId) -> Result<Vec<u64>, String> {
        match self.node(id) {
            // Torch's own limit.
            Some(Node::List(items)) if items.len() > 64 => Err(format!("a tensor of {} dimensions", items.len())),
            Some(Node::List(items)) => items.iter().map(|&item| self.size(item)).collect(),
            _ => Err("a tensor whose shape or strides are not a tuple".into()),
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node<'a>> {
        self.nodes.get(id as usize)
    }

    fn count(&mut self) -> Result<(), String> {
        self.pushed += 1;
        if self.pushed > MAX_VALUES { Err(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        // MAX_VALUES fits NodeId.
        let id = self.nodes.len() as NodeId;
        self.nodes.push(node);
        self.push_id(id)
    }

    fn push_id(&mut self, id: NodeId) -> Result<(), String> {
        self.count()?;
        self.stack.push(id);
        Ok(())
    }

    /// Pops a value, but never one below the last mark.
    fn pop(&mut self) -> Result<NodeId, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor { None } else { self.stack.pop() }.ok_or_else(|| "an empty stack".to_string())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<NodeId>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Result<Vec<NodeId>, String> {
        let height = self.marks.pop().ok_or("an end without a mark")?;
        // `pop` keeps the stack at least as high as the mark.
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn top_id(&mut self) -> Result<NodeId, String> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn top(&mut self) -> Result<&mut Node<'a>, String> {
        let id = self.top_id()?;
        self.nodes.get_mut(id as usize).ok_or_else(|| "a lost value".to_string())
    }

    fn append(&mut self, items: Vec<NodeId>) -> Result<(), String> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            _ => return Err("items for something that is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[NodeId]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top()? {
            Node::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Node::Dict(_) => return Err("a key without a value".into()),
            _ => return Err("keys for something that is not a dict".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), String> {
        let id = self.top_id()?;
        self.count()?;
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let id = *self.memo.get(&index).ok_or_else(|| format!("memo entry {index}, which was never stored"))?;
        self.push_id(id)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let bytes = end.and_then(|end| self.input.get(self.at..end));
        let bytes = bytes.ok_or_else(|| {
            format!("the input ends too early: {len} bytes expected, {} left", self.input.len() - self.at)
        })?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The bytes of a str or bytes opcode, whose length stands before them.
    fn counted(&mut self, opcode: u8) -> Result<&'a [u8], String> {
        let len = match opcode {
            op::SHORT_BINUNICODE | op::SHORT_BINBYTES => u64::from(self.array::<1>()?[0]),
            op::BINUNICODE | op::BINBYTES => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(usize::try_from(len).map_err(|_| format!("a length of {len}"))?)
    }

    /// A little-endian two's complement integer of up to 8 bytes.
    fn long1(&mut self) -> Result<i64, String> {
        let [len] = self.array()?;
        let bytes = self.take(len.into())?;
        let negative = bytes.last().is_some_and(|&b| b >= 0x80);
        let mut array = if negative { [0xff; 8] } else { [0; 8] };
        let low = array.get_mut(..bytes.len()).ok_or("an int of more than 64 bits")?;
        low.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(array))
    }

    /// Text up to a line feed, which is consumed too.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or("the input ends within a name")?;
        let line = self.take(len)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|e| format!("a name that is not UTF-8: {e}"))
    }
}

const STORAGE_CLASSES: [&str; 13] = [
    "DoubleStorage",
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "LongStorage",
    "IntStorage",
    "ShortStorage",
    "CharStorage",
    "ByteStorage",
    "BoolStorage",
    "ComplexDoubleStorage",
    "ComplexFloatStorage",
    "QInt8Storage",
];

const DTYPES: [&str; 14] = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
];

impl<'a> Global<'a> {
    fn find(module: &'a str, name: &'a str) -> Result<Self, String> {
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Global::OrderedDict),
            ("torch", "Size") => Ok(Global::Size),
            ("torch", "device") => Ok(Global::Device),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
            ("torch", class) if STORAGE_CLASSES.contains(&class) => Ok(Global::StorageClass(class)),
            ("torch", dtype) if DTYPES.contains(&dtype) => Ok(Global::Dtype(dtype)),
            _ => {
                let shown: String = format!("{module}.{name}").chars().take(200).collect();
                Err(format!(
                    "it wants the Python object `{}`, which is not executed here; save a plain state dict instead \
                     (`torch.save(model.state_dict(), path)`)",
                    shown.escape_debug()
                ))
            }
        }
    }

    fn name(self) -> &'a str {
        match self {
            Global::OrderedDict => "collections.OrderedDict",
            Global::Size => "torch.Size",
            Global::Device => "torch.device",
            Global::RebuildTensor => "torch._utils._rebuild_tensor_v2",
            Global::RebuildParameter => "torch._utils._rebuild_parameter",
            Global::StorageClass(name) | Global::Dtype(name) => name,
        }
    }
}
