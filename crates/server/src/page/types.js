// The types of values by the names that the formats have for them. Each function gives { dtype, width }: the protocol's name
// and how many bytes a value has; or { dtype, problem }, with a name for people.

const TAKEN = { float16: 2, bfloat16: 2, float32: 4, float64: 8 };

function known(dtype, advice) {
  if (dtype in TAKEN) return { dtype, width: TAKEN[dtype] };
  return { dtype, problem: `its values are ${dtype}; ${advice}` };
}

const SAFETENSORS = {
  F16: "float16", BF16: "bfloat16", F32: "float32", F64: "float64", F8_E4M3: "float8_e4m3fn", F8_E5M2: "float8_e5m2",
  I8: "int8", I16: "int16", I32: "int32", I64: "int64", U8: "uint8", U16: "uint16", U32: "uint32", U64: "uint64", BOOL: "bool",
};

export const safetensorsType = (name) => known(SAFETENSORS[name] ?? name, "save them as float16, bfloat16, float32 or float64");

const TORCH = {
  Half: "float16", BFloat16: "bfloat16", Float: "float32", Double: "float64",
  Char: "int8", Short: "int16", Int: "int32", Long: "int64", Byte: "uint8", Bool: "bool", ComplexFloat: "complex64", ComplexDouble: "complex128",
};

/** By the name of a storage, such as HalfStorage. */
export function torchType(name) {
  const short = name.replace(/Storage$/, "");
  return known(TORCH[short] ?? short.toLowerCase(), "save x.half(), x.bfloat16() or x.float()");
}

const NUMPY = { f: "float", i: "int", u: "uint", c: "complex" };
const NUMPY_OTHERS = { b: "bool", "?": "bool", O: "Python objects", U: "text", S: "text", M: "dates", m: "times", V: "records" };

/** By NumPy's code, such as <f4; without one the array has records. */
export function numpyType(code = "|V") {
  const [, order, kind, width] = code.match(/^([<>|=]?)(.)(\d*)/s) ?? [];
  // NumPy has no bfloat16: that of ml_dtypes is two bytes of nothing in particular.
  if (kind === "V" && width === "2") return known("bfloat16");
  const name = kind in NUMPY ? NUMPY[kind] + 8 * Number(width) : NUMPY_OTHERS[kind] ?? "of a type that is not known here";
  if (order === ">" && width > 1) return { dtype: name, problem: `its values are ${name}, but big-endian; save x.astype("${name in TAKEN ? name : "float32"}")` };
  return known(name, 'save x.astype("float32"), or float16 or float64');
}
