package engine

// This file defines a lookup of Hiera data, as `puppet lookup` does it.

// A LookupRequest says which keys to look up for which node. Of Node the fields that shape a compile count; its
// classification does only with Compile.
type LookupRequest struct {
	Node    Request
	Keys    []string
	Options LookupOptions
}

// LookupOptions are those of `puppet lookup`, with its meanings. The zero value looks a key up as a manifest's lookup does.
type LookupOptions struct {
	Merge            string  `json:"merge,omitempty"`
	Type             string  `json:"type,omitempty"`
	Default          *string `json:"default_value,omitempty"`
	KnockOutPrefix   string  `json:"prefix,omitempty"`
	SortMergedArrays bool    `json:"sort_merged_arrays,omitempty"`
	MergeHashArrays  bool    `json:"merge_hash_arrays,omitempty"`
	Explain          bool    `json:"explain,omitempty"`
	ExplainOptions   bool    `json:"explain_options,omitempty"`
	Compile          bool    `json:"compile,omitempty"`   // evaluate the node's manifests first
	RenderAs         string  `json:"render_as,omitempty"` // s, json or yaml; "" is yaml for a value and s for an explanation
}

// A LookupResult is what `puppet lookup` writes to its standard output. It holds an explanation also where nothing was found.
type LookupResult struct {
	Output string
	Found  bool // always true of an explanation, as its exit code says
	Logs   []Log
}

// KnownRendering tells whether a lookup can be rendered so; Puppet's binary formats are not for a terminal.
func KnownRendering(name string) bool {
	return name == "" || name == "s" || name == "json" || name == "yaml"
}
