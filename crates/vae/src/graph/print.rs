//! A graph for people.

use std::fmt::Write as _;

use super::{Graph, GraphError, NodeId, Op, Shape};

impl Graph {
    /// A table, one line a node, with shapes and work for an input of this shape. Numbers are of the nodes whose values are
    /// taken.
    ///
    /// # Errors
    /// An input that the graph cannot take.
    pub fn table(&self, input: Shape) -> Result<String, GraphError> {
        let shapes = self.shapes(input)?;
        let mut rows = vec![["node", "operation", "of", "weights", "output", "GFLOP"].map(str::to_owned)];
        for (id, node) in self.nodes.iter().enumerate() {
            let of: Vec<_> = node.inputs.iter().map(NodeId::to_string).collect();
            let work = self.multiply_adds(id, &shapes);
            let work = if work == 0 { String::new() } else { format!("{:.1}", 2e-9 * work as f64) };
            rows.push([
                id.to_string(),
                node.op.to_string(),
                of.join(" "),
                node.name.clone(),
                shapes[id].to_string(),
                work,
            ]);
        }
        let work = 2e-9 * self.work(input) as f64;
        rows.push(["", "all", "", "", "", &format!("{work:.1}")].map(str::to_owned));
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut table = String::new();
        for [id, op, of, name, shape, work] in &rows {
            let [w0, w1, w2, w3, w4, w5] = widths;
            let line = format!("{id:>w0$}  {op:w1$}  {of:w2$}  {name:w3$}  {shape:>w4$}  {work:>w5$}");
            table.push_str(line.trim_end());
            table.push('\n');
        }
        Ok(table)
    }

    /// The same as a picture, in Graphviz' language: `dot -Tsvg` draws it.
    ///
    /// # Errors
    /// An input that the graph cannot take.
    pub fn dot(&self, name: &str, input: Shape) -> Result<String, GraphError> {
        let shapes = self.shapes(input)?;
        let mut dot = format!("digraph {name:?} {{\n  node [shape=box, fontname=\"sans-serif\"];\n");
        for (id, node) in self.nodes.iter().enumerate() {
            let mut label = node.op.to_string();
            if !node.name.is_empty() {
                let _ = write!(label, "\\n{}", node.name);
            }
            let _ = writeln!(dot, "  n{id} [label=\"{label}\\n{}\"];", shapes[id]);
            for input in &node.inputs {
                let _ = writeln!(dot, "  n{input} -> n{id};");
            }
        }
        let _ = writeln!(dot, "  output [shape=plain];\n  n{} -> output;\n}}", self.output);
        Ok(dot)
    }

    /// What of it looks everywhere, so that no part of a picture can be made by itself: `group norm, 32 groups` and the like,
    /// each once.
    pub fn looks_everywhere(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for node in &self.nodes {
            if matches!(node.op, Op::GroupNorm { .. } | Op::Attention(_)) {
                let text = node.op.to_string();
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
        found
    }
}
