package code

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"slices"
	"strings"

	"troupe/internal/fault"
	"troupe/internal/telemetry"
)

// This file lists tasks and describes one (puppet/module/task.rb,
// info_service/task_information_service.rb, puppetserver's master_core.clj).

// A Task is one line of GET /puppet/v3/tasks.
type Task struct {
	Name        string          // module, or module::task
	Private     bool            // as its metadata says
	Description string          // likewise
	Metadata    json.RawMessage // of <task>.json; {} without
}

// A TaskDetail is the answer of GET /puppet/v3/tasks/<module>/<task>.
type TaskDetail struct {
	Metadata json.RawMessage `json:"metadata"`
	Name     string          `json:"name"`
	Files    []TaskFile      `json:"files"`
}

// A TaskFile is one file that a task needs.
type TaskFile struct {
	Filename string  `json:"filename"`
	SHA256   string  `json:"sha256"`
	Size     int64   `json:"size_bytes"`
	URI      TaskURI `json:"uri"`
}

// A TaskURI says where the file can be fetched, in the very version.
type TaskURI struct {
	Path   string            `json:"path"`
	Params map[string]string `json:"params"`
}

// A TaskError is a task that cannot be described. Its JSON is the answer's body.
type TaskError struct {
	Kind    string         `json:"kind"`
	Msg     string         `json:"msg"`
	Details map[string]any `json:"details"`
}

func (e *TaskError) Error() string { return e.Msg }

func taskError(kind, format string, args ...any) *TaskError {
	return &TaskError{Kind: "puppet.tasks/" + kind, Msg: fmt.Sprintf(format, args...), Details: map[string]any{}}
}

// task is what the files of one name in a tasks folder make.
type task struct {
	module *Module
	name   string // within the module
	json   *node  // its metadata, may be nil
}

// fullName is the name that people use.
func (t task) fullName() string { return qualified(t.module.Name, t.name) }

func qualified(module, name string) string {
	if name == "init" {
		return module
	}
	return module + "::" + name
}

var taskName = regexp.MustCompile(`\A[a-z][a-z0-9_]*\z`)

// taskFiles are the files of a tasks folder that have a legal name.
func (m *Module) taskFiles() []*node {
	dir := m.node.find("tasks")
	if dir != nil {
		dir = dir.follow()
	}
	if dir == nil || dir.kind != dirKind {
		return nil
	}
	var files []*node
	for _, n := range dir.children {
		to := n.follow()
		if to == nil || to.kind != fileKind || n.name[0] == '.' || !taskName.MatchString(stem(n.name)) ||
			strings.HasSuffix(n.name, ".conf") || strings.HasSuffix(n.name, ".md") {
			continue
		}
		files = append(files, n)
	}
	return files
}

// stem is Ruby's File.basename(name, '.*'): without the last extension.
func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

func (m *Module) tasks() []task {
	var all []task
	for _, n := range m.taskFiles() {
		at := slices.IndexFunc(all, func(t task) bool { return t.name == stem(n.name) })
		if at < 0 {
			at = len(all)
			all = append(all, task{module: m, name: stem(n.name)})
		}
		if strings.HasSuffix(n.name, ".json") {
			all[at].json = n.follow()
		}
	}
	return all
}

// Tasks lists the tasks of all modules. Those that are broken are left out and
// logged.
func (v *Version) Tasks(ctx context.Context) ([]Task, error) {
	all := []Task{}
	for _, m := range v.modules {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("listing tasks: %w", err)
		}
		for _, t := range m.tasks() {
			detail, err := v.describeTask(t)
			if err != nil {
				v.repo.o.Log.Warn("failed to validate task", slog.String("task", t.fullName()), slog.Any(telemetry.KeyErr, err))
				continue
			}
			listed := Task{Name: detail.Name, Metadata: detail.Metadata}
			var shown struct {
				Private     bool   `json:"private"`
				Description string `json:"description"`
			}
			if err := json.Unmarshal(detail.Metadata, &shown); err == nil {
				listed.Private, listed.Description = shown.Private, shown.Description
			}
			all = append(all, listed)
		}
	}
	return all, nil
}

// Task describes one task. Faults are NotFound with puppetserver's words; a
// *TaskError names what is wrong with the task itself.
func (v *Version) Task(_ context.Context, module, name string) (TaskDetail, error) {
	m := v.Module(module)
	if m == nil {
		return TaskDetail{}, fault.New(fault.NotFound, "Could not find module '%s'", module)
	}
	for _, t := range m.tasks() {
		if t.name == name {
			return v.describeTask(t)
		}
	}
	return TaskDetail{}, fault.New(fault.NotFound, "Could not find task '%s'", name)
}

// taskMetadata is what of a task's metadata decides about its files.
type taskMetadata struct {
	Files           json.RawMessage `json:"files"`
	Implementations json.RawMessage `json:"implementations"`
}

type taskImplementation struct {
	Name         string          `json:"name"`
	Requirements json.RawMessage `json:"requirements"`
	Files        json.RawMessage `json:"files"`
}

func (v *Version) describeTask(t task) (TaskDetail, error) {
	d := TaskDetail{Name: t.fullName(), Metadata: json.RawMessage("{}"), Files: []TaskFile{}}
	var meta taskMetadata
	if t.json != nil {
		text, err := v.repo.store.read(t.json, maxModuleMetadata)
		if err != nil {
			return d, taskError("unreadable-metadata", "Error reading metadata: %v", err)
		}
		if len(text) > 0 {
			if err := json.Unmarshal(text, &meta); err != nil {
				return d, taskError("unparseable-metadata", "%v", err)
			}
			d.Metadata = text
		}
	}
	implementations, err := decodeImplementations(t, meta)
	if err != nil {
		return d, err
	}
	if d.Files, err = v.implementationFiles(t, implementations); err != nil {
		return d, err
	}
	extra, err := v.extraFiles(meta, implementations)
	d.Files = append(d.Files, extra...)
	return d, err
}

func decodeImplementations(t task, meta taskMetadata) ([]taskImplementation, error) {
	if meta.Implementations == nil {
		return nil, nil
	}
	var list []taskImplementation
	if json.Unmarshal(meta.Implementations, &list) != nil || list == nil {
		return nil, taskError("invalid-metadata", "Task metadata for task %s does not specify implementations as an array", t.fullName())
	}
	for _, i := range list {
		if i.Requirements != nil && i.Requirements[0] != '[' && string(i.Requirements) != "null" {
			return nil, taskError("invalid-metadata", "Task metadata for task %s does not specify requirements as an array", t.fullName())
		}
	}
	return list, nil
}

// implementationFiles are the task's own executables: those that its metadata
// names, or else the one file that has its name.
func (v *Version) implementationFiles(t task, named []taskImplementation) ([]TaskFile, error) {
	executables := slices.DeleteFunc(t.module.taskFiles(), func(n *node) bool { return strings.HasSuffix(n.name, ".json") })
	files := []TaskFile{}
	if named != nil {
		for _, i := range named {
			at := slices.IndexFunc(executables, func(n *node) bool { return n.name == i.Name })
			if at < 0 {
				err := taskError("missing-implementation", "Task metadata for task %s specifies missing implementation %s", t.fullName(), i.Name)
				err.Details["missing"] = []string{i.Name}
				return nil, err
			}
			files = append(files, v.taskFile(i.Name, t.module, "tasks", executables[at].name, executables[at].follow()))
		}
		return files, nil
	}

	own := slices.DeleteFunc(executables, func(n *node) bool { return stem(n.name) != t.name })
	switch len(own) {
	case 0:
		return nil, taskError("no-implementation", "No source besides task metadata was found in directory %s/tasks for task %s", t.module.Path, t.fullName())
	case 1:
		return append(files, v.taskFile(own[0].name, t.module, "tasks", own[0].name, own[0].follow())), nil
	}
	return nil, taskError("multiple-implementations", "Multiple executables were found in directory %s/tasks/%s for task %s; define 'implementations' in metadata to differentiate between them", t.module.Path, own[0].name, t.fullName())
}

// extraFiles are the files of modules that metadata lists under "files".
func (v *Version) extraFiles(meta taskMetadata, implementations []taskImplementation) ([]TaskFile, error) {
	var names []string
	lists := []json.RawMessage{meta.Files}
	for _, i := range implementations {
		lists = append(lists, i.Files)
	}
	for _, raw := range lists {
		if raw == nil {
			continue
		}
		var list []string
		if json.Unmarshal(raw, &list) != nil || list == nil {
			return nil, taskError("invalid-metadata", "The 'files' task metadata expects an array, got %s.", first(stringOf(raw), string(raw)))
		}
		for _, name := range list {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}

	var files []TaskFile
	for _, name := range names {
		more, err := v.extraFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// extraFile resolves "<module>/<mount>/<path>", where a trailing slash means all
// files of a folder.
func (v *Version) extraFile(name string) ([]TaskFile, error) {
	parts := append(strings.SplitN(name, "/", 3), "", "")
	module, mount, rest := parts[0], parts[1], parts[2]
	m := v.Module(module)
	if m == nil {
		return nil, taskError("invalid-metadata", "Could not find module %s containing task file %s", module, rest)
	}
	if !slices.Contains([]string{"files", "lib", "scripts", "tasks"}, mount) {
		return nil, taskError("invalid-metadata", "Files must be saved in module directories that Puppet makes available via mount points: files, lib, scripts, tasks")
	}
	if hasDots(rest) || strings.Contains(rest, "//") {
		return nil, taskError("invalid-metadata", "File pathnames cannot include relative paths")
	}
	n := m.node.find(mount + "/" + rest)
	if n != nil {
		n = n.follow()
	}
	switch {
	case n == nil:
		return nil, taskError("invalid-file", "Could not find %s/%s/%s on disk", m.Path, mount, rest)
	case n.kind == fileKind:
		return []TaskFile{v.taskFile(name, m, mount, rest, n)}, nil
	case !strings.HasSuffix(name, "/"):
		return nil, taskError("invalid-metadata", "Directories specified in task metadata must include a trailing slash: %s", name)
	}
	return v.folderFiles(m, mount, strings.TrimSuffix(rest, "/"), n), nil
}

// folderFiles lists the files below a folder, as Dir.glob("**/*") does: without
// hidden ones, and without following links to folders.
func (v *Version) folderFiles(m *Module, mount, rest string, dir *node) []TaskFile {
	var files []TaskFile
	for _, c := range dir.children {
		if c.name[0] == '.' {
			continue
		}
		at := strings.TrimPrefix(rest+"/"+c.name, "/")
		to := c.follow()
		switch {
		case to == nil:
		case to.kind == fileKind:
			files = append(files, v.taskFile(m.Name+"/"+mount+"/"+at, m, mount, at, to))
		case c.kind == dirKind:
			files = append(files, v.folderFiles(m, mount, at, c)...)
		}
	}
	return files
}

// taskFile describes a file and where to get it: from this version if static
// content can name it, else from its mount.
func (v *Version) taskFile(filename string, m *Module, mount, rest string, n *node) TaskFile {
	f := TaskFile{Filename: filename, SHA256: n.sum.String(), Size: n.size}
	static := path.Base(path.Dir(m.Path)) + "/" + m.Name + "/" + mount + "/" + rest
	if found := v.plan.tree.roots[0].node.find(static); found != nil && found.follow() == n {
		f.URI = TaskURI{
			Path:   "/puppet/v3/static_file_content/" + static,
			Params: map[string]string{"environment": string(v.Environment), "code_id": v.ID},
		}
		return f
	}
	f.URI.Params = map[string]string{"environment": string(v.Environment)}
	switch mount {
	case "files":
		f.URI.Path = "/puppet/v3/file_content/modules/" + m.Name + "/" + rest
	case "lib":
		f.URI.Path = "/puppet/v3/file_content/plugins/" + rest
	default:
		f.URI.Path = "/puppet/v3/file_content/" + mount + "/" + m.Name + "/" + rest
	}
	return f
}
