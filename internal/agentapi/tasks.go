package agentapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"troupe/internal/code"
	"troupe/internal/jetty"
	"troupe/internal/puppet"
)

// This file answers /puppet/v3/tasks and /puppet/v3/plans for Bolt and the
// orchestrator (master_core.clj, all-tasks-response! and task-details).

// listedIn is how a list says where a task or plan was found.
type listedIn struct {
	Name   puppet.Environment `json:"name"`
	CodeID *string            `json:"code_id"` // the real server never says
}

func (a *API) getTasks(w http.ResponseWriter, q *request) error {
	version, err := a.currentVersion(q)
	if err != nil {
		return err
	}
	tasks, err := version.Tasks(q.Context())
	if err != nil {
		return err
	}
	type listed struct {
		Name        string     `json:"name"`
		Private     bool       `json:"private"`
		Description string     `json:"description"`
		Environment []listedIn `json:"environment"`
	}
	answer := []listed{}
	for _, t := range tasks {
		answer = append(answer, listed{t.Name, t.Private, t.Description, []listedIn{{Name: version.Environment}}})
	}
	return writeJSON(w, q, answer)
}

// noEndpoint answers a path of another depth than tasks and plans have.
func noEndpoint(w http.ResponseWriter, q *request) error {
	w.Header().Del("X-Puppet-Version")
	jetty.NotFound(w, q.Request)
	return nil
}

func (a *API) getTask(w http.ResponseWriter, q *request) error {
	module, name, ok := strings.Cut(q.key, "/")
	if !ok || module == "" || name == "" || strings.Contains(name, "/") {
		return noEndpoint(w, q)
	}
	version, err := a.currentVersion(q)
	if err != nil {
		return err
	}
	task, err := version.Task(q.Context(), module, name)
	if te, ok := errors.AsType[*code.TaskError](err); ok {
		return writeTaskError(w, te)
	}
	if err != nil {
		return err
	}
	if task.Metadata, err = sortKeys(task.Metadata); err != nil {
		return err
	}
	return writeJSON(w, q, task)
}

// writeTaskError answers what is wrong with a task as an object of its own kind.
func writeTaskError(w http.ResponseWriter, te *code.TaskError) error {
	body, err := json.Marshal(te)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", formatJSON.sent)
	w.WriteHeader(http.StatusInternalServerError)
	_, err = w.Write(body)
	return err
}

func (a *API) getPlans(w http.ResponseWriter, q *request) error {
	version, err := a.currentVersion(q)
	if err != nil {
		return err
	}
	plans, err := version.Plans(q.Context())
	if err != nil {
		return err
	}
	type listed struct {
		Name        string     `json:"name"`
		Environment []listedIn `json:"environment"`
	}
	answer := []listed{}
	for _, name := range plans {
		answer = append(answer, listed{name, []listedIn{{Name: version.Environment}}})
	}
	return writeJSON(w, q, answer)
}

func (a *API) getPlan(w http.ResponseWriter, q *request) error {
	module, name, ok := strings.Cut(q.key, "/")
	if !ok || module == "" || name == "" || strings.Contains(name, "/") {
		return noEndpoint(w, q)
	}
	version, err := a.currentVersion(q)
	if err != nil {
		return err
	}
	plan, err := version.Plan(q.Context(), module, name)
	if err != nil {
		return err
	}
	return writeJSON(w, q, plan)
}

// currentVersion returns the code of the environment that the request names.
func (a *API) currentVersion(q *request) (*code.Version, error) {
	env, err := q.environment()
	if err != nil {
		return nil, err
	}
	return a.code.Current(q.Context(), env)
}

// sortKeys sorts the keys of objects, as puppetserver does with what it takes
// from Ruby.
func sortKeys(b json.RawMessage) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return out.Bytes(), err
}
