// Package failpoint lets a test kill the process at a place that it chooses: between a commit and what follows it, between a
// record and the answer. A binary that was built without the tag failpoint has nothing of it, neither a branch nor a name.
//
//	go build -tags failpoint ./cmd/troupe
//	TROUPE_FAILPOINT=journal.committed:7 troupe server
//
// ends the process with SIGKILL when it comes to that place for the seventh time. Names are "package.what has just happened".
// A call stands where a death would be told from one a line earlier, and nowhere else.
package failpoint

// Variable names the place and the count, as NAME or NAME:COUNT.
const Variable = "TROUPE_FAILPOINT"
