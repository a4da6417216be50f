package agentapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"troupe/internal/code"
	"troupe/internal/fault"
	"troupe/internal/puppet"
)

// This file answers /puppet/v3/environments, environment_classes and
// environment_modules: what there is to classify nodes with.

func (a *API) getEnvironments(w http.ResponseWriter, q *request) error {
	list, err := a.code.Environments(q.Context())
	if err != nil {
		return err
	}
	type settings struct {
		Settings code.Settings `json:"settings"`
	}
	answer := struct {
		SearchPaths  []string                        `json:"search_paths"`
		Environments map[puppet.Environment]settings `json:"environments"`
	}{
		SearchPaths:  append(a.code.SearchPaths(), "data:text/plain,internal"), // the last is Puppet's built-in one
		Environments: map[puppet.Environment]settings{},
	}
	for _, e := range list {
		answer.Environments[e.Name] = settings{e.Settings}
	}
	return writeJSON(w, q, answer)
}

// classTags remembers the entity tag of each environment's classes, so that a
// repeated question costs nothing. It holds one entry per environment.
type classTags struct {
	mu   sync.Mutex
	tags map[puppet.Environment]classTag
}

type classTag struct{ codeID, tag string }

func (t *classTags) get(v *code.Version) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.tags[v.Environment]; c.codeID == v.ID {
		return c.tag
	}
	return ""
}

func (t *classTags) set(v *code.Version, tag string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tags == nil {
		t.tags = map[puppet.Environment]classTag{}
	}
	t.tags[v.Environment] = classTag{v.ID, tag}
}

func (a *API) getEnvironmentClasses(w http.ResponseWriter, q *request) error {
	env, err := q.environment()
	if err != nil {
		return err
	}
	version, err := a.code.Current(q.Context(), env)
	if err != nil {
		return err
	}
	version.Retain()
	defer version.Release()

	// Jetty marks the tag of a compressed answer; the mark comes back in questions.
	asked := strings.Trim(strings.TrimSuffix(strings.Trim(q.Header.Get("If-None-Match"), `"`), "--gzip"), `"`)
	if tag := a.classTags.get(version); tag != "" && tag == asked {
		return notModified(w, tag)
	}
	body, err := a.engine.EnvironmentClasses(q.Context(), version)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	tag := hex.EncodeToString(sum[:])
	a.classTags.set(version, tag)
	if tag == asked {
		return notModified(w, tag)
	}
	w.Header().Set("Etag", tag) // without quotes, as puppetserver has it
	return write(w, q, formatJSON, body)
}

func notModified(w http.ResponseWriter, tag string) error {
	w.Header().Set("Etag", tag)
	w.WriteHeader(http.StatusNotModified)
	return nil
}

type environmentModules struct {
	Modules []environmentModule `json:"modules"`
	Name    puppet.Environment  `json:"name"`
}

type environmentModule struct {
	Name    string  `json:"name"`
	Version *string `json:"version"`
}

// getEnvironmentModules lists the modules of one environment, or of all.
func (a *API) getEnvironmentModules(w http.ResponseWriter, q *request) error {
	if q.params.Has("environment") {
		env, err := q.environment()
		if err != nil {
			return err
		}
		version, err := a.code.Current(q.Context(), env)
		if err != nil {
			return err
		}
		return writeJSON(w, q, modulesOf(version))
	}

	list, err := a.code.Environments(q.Context())
	if err != nil {
		return err
	}
	all := []environmentModules{}
	for _, e := range list {
		version, err := a.code.Current(q.Context(), e.Name)
		if fault.KindOf(err) == fault.NotFound {
			continue // removed since it was listed
		}
		if err != nil {
			return fmt.Errorf("listing modules of %s: %w", e.Name, err)
		}
		all = append(all, modulesOf(version))
	}
	slices.SortFunc(all, func(x, y environmentModules) int { return strings.Compare(string(x.Name), string(y.Name)) })
	return writeJSON(w, q, all)
}

func modulesOf(v *code.Version) environmentModules {
	out := environmentModules{Modules: []environmentModule{}, Name: v.Environment}
	for _, m := range v.Modules() {
		em := environmentModule{Name: m.ListName()}
		if m.Version != "" {
			em.Version = &m.Version
		}
		out.Modules = append(out.Modules, em)
	}
	return out
}
