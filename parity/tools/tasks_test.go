//go:build parity

package tools

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
)

// This file sends the requests of Bolt's server and of Choria, which Debian does not have. Paths, parameters and headers are
// those of their public sources: puppetlabs/bolt, lib/bolt_server/file_cache.rb and transport_app.rb; choria's
// lib/mcollective/util/tasks_support.rb. Both build the address of a task's file from the path and the parameters that the
// server names.

// taskClientsDiffer are the answers in which a member differs, and why.
var taskClientsDiffer = map[string]string{
	"the task":   "its files have addresses with the version of the code",
	"transports": "not there",
}

// useTasks lists, then fetches a task with all its files.
func useTasks(c *client) []answered {
	c.t.Helper()
	get := func(what, target string) answered { return c.ask(what, "GET", target, "", acceptsAnything) }
	done := []answered{
		get("modules", "/puppet/v3/environment_modules?environment=production"),
		get("modules of all environments", "/puppet/v3/environment_modules"),
		get("modules of no environment", "/puppet/v3/environment_modules?environment=nosuch"),
		get("transports", "/puppet/v3/environment_transports?environment=production"),
		get("plans", "/puppet/v3/plans?environment=production"),
		get("the plan", "/puppet/v3/plans/site/deploy?environment=production"),
		get("an unknown plan", "/puppet/v3/plans/site/nosuch?environment=production"),
		get("tasks", "/puppet/v3/tasks?environment=production"),
		get("tasks of no environment", "/puppet/v3/tasks?environment=nosuch"),
		get("tasks without an environment", "/puppet/v3/tasks"),
		get("an unknown task", "/puppet/v3/tasks/site/nosuch?environment=production"),
		get("a task of an unknown module", "/puppet/v3/tasks/nosuch/restart?environment=production"),
		get("a module's task of its name", "/puppet/v3/tasks/site/init?environment=production"),
		c.ask("a file of a module", "GET", "/puppet/v3/file_content/modules/site/motd?environment=production", "", acceptsFile),
		c.ask("a file that is not there", "GET", "/puppet/v3/file_content/modules/site/nosuch?environment=production", "", acceptsFile),
	}
	return append(done, c.task("the task", "/puppet/v3/tasks/site/restart?environment=production")...)
}

// task fetches a task and what it is made of, with the check that both clients make.
func (c *client) task(what, target string) []answered {
	c.t.Helper()
	answer, text := c.send("GET", target, "", acceptsAnything)
	var task struct {
		Name     string         `json:"name"`
		Metadata map[string]any `json:"metadata"`
		Files    []struct {
			Filename string `json:"filename"`
			SHA256   string `json:"sha256"`
			Size     int    `json:"size_bytes"`
			URI      struct {
				Path   string            `json:"path"`
				Params map[string]string `json:"params"`
			} `json:"uri"`
		} `json:"files"`
	}
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		c.t.Fatalf("%s: %v\n%s", answer.Status, err, text)
	}
	done := []answered{c.answered(what, answer, text)}
	for i, f := range task.Files {
		params := url.Values{}
		for name, value := range f.URI.Params {
			params.Set(name, value)
		}
		for _, accept := range []string{acceptsFile, acceptsAnything} { // Choria, Bolt
			got, content := c.send("GET", f.URI.Path+"?"+params.Encode(), "", accept)
			sum := sha256.Sum256([]byte(content))
			if hex.EncodeToString(sum[:]) != f.SHA256 || len(content) != f.Size {
				c.t.Errorf("%s, %s: the content has not the checksum and size of the metadata", c.peer.name, f.Filename)
			}
			done = append(done, c.answered("content of "+f.Filename+", "+accept, got, content))
		}
		task.Files[i].URI.Path, task.Files[i].URI.Params = "", nil
	}
	return append(done, answered{What: "the task without addresses of files", JSON: task})
}
