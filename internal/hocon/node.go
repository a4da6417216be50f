package hocon

// This file holds the tree that the parser builds and the resolver reduces: a
// value as written, before substitutions are looked up.

type nodeKind uint8

const (
	scalarNode nodeKind = iota
	blankNode           // white space between two pieces of a concatenation
	arrayNode
	objectNode
	concatNode // pieces on one line, joined when they are known
	substNode  // ${path} or ${?path}
	stackNode  // values that one key was given in turn, where a later one needs the earlier ones
)

type node struct {
	kind   nodeKind
	pos    Position
	scalar Value
	items  []*node // of an array, a concatenation or a stack
	fields []*field
	index  map[string]*field // the same fields by key

	path     []string // of a substitution
	prefix   int      // how many elements of path come from the place of the include
	optional bool

	// The resolver's notes.
	state  resolveState
	top    int // stack: the item that is being resolved; a reference to itself sees those below
	result Value
	have   bool // false: an optional substitution that found nothing
}

type field struct {
	key   string
	value *node
}

func (n *node) get(key string) *node {
	if f := n.index[key]; f != nil {
		return f.value
	}
	return nil
}

// set gives key a value, on top of one that it may have had.
func (n *node) set(key string, v *node) {
	if f := n.index[key]; f != nil {
		f.value = overlay(f.value, v)
		return
	}
	if n.index == nil {
		n.index = map[string]*field{}
	}
	f := &field{key, v}
	n.fields = append(n.fields, f)
	n.index[key] = f
}

// overlay puts a later value of a key on top of an earlier one. Only what cannot
// be decided before substitutions are known becomes a stack.
func overlay(under, over *node) *node {
	switch {
	case under.kind == objectNode && over.kind == objectNode:
		for _, f := range over.fields {
			under.set(f.key, f.value)
		}
		return under
	case over.literal() && (over.kind != objectNode || under.literal()):
		return over
	case under.kind == stackNode:
		under.items = append(under.items, over)
		return under
	default:
		return &node{kind: stackNode, pos: over.pos, items: []*node{under, over}}
	}
}

// literal reports that n's sort is known without looking anything up.
func (n *node) literal() bool {
	return n.kind == scalarNode || n.kind == arrayNode || n.kind == objectNode
}
