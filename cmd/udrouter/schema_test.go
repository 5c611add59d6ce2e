package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"udrouter/router"
)

// answers are what commands print with --json, and the router answers; of capture and top each line, of explain each object.
var answers = map[string]reflect.Type{
	"status":     reflect.TypeFor[router.Status](),
	"flows":      reflect.TypeFor[router.FlowList](),
	"neighbours": reflect.TypeFor[router.NeighbourList](),
	"drops":      reflect.TypeFor[dropReport](),
	"reload":     reflect.TypeFor[router.ReloadAnswer](),
	"vif":        reflect.TypeFor[router.VifAnswer](),
	"vif-list":   reflect.TypeFor[router.VifList](),
	"top":        reflect.TypeFor[Rates](),
	"capture":    reflect.TypeFor[router.CaptureRecord](),
	"explain":    reflect.TypeFor[router.Answer](),
	"test":       reflect.TypeFor[testReport](),
	"doctor":     reflect.TypeFor[doctorReport](),
}

// The schemas of cmd/docs/schema are those of the types.
func TestSchemas(t *testing.T) {
	g := schemas{comments: make(map[string]string)}
	for _, dir := range []string{"../../integration/doctor", "../../config", "../../router", "."} {
		g.read(t, dir)
	}
	for name, typ := range answers {
		g.defs = make(map[string]any)
		top := g.object(t, typ)
		top["$schema"], top["title"] = "https://json-schema.org/draft/2020-12/schema", name
		if len(g.defs) > 0 {
			top["$defs"] = g.defs
		}
		out, err := json.MarshalIndent(top, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		generated(t, "schema/"+name+".json", append(out, '\n'))
	}
	files, err := filepath.Glob(pages + "schema/*")
	if err != nil || len(files) != len(answers) {
		t.Errorf("the schemas are %q (%v), those of %d types", files, err, len(answers))
	}
}

// schemas makes JSON Schemas of types as encoding/json writes them. Further fields are always allowed: answers are only ever added to.
type schemas struct {
	comments map[string]string // of types and fields, as "Status" and "Status.Links"
	defs     map[string]any    // schemas of the structs of the one that is made, by name
}

// read takes the comments on a package's types and their fields.
func (g *schemas) read(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range decl.Specs {
				if spec, ok := s.(*ast.TypeSpec); ok {
					g.comment(spec, decl.Doc.Text())
				}
			}
		}
	}
}

func (g *schemas) comment(spec *ast.TypeSpec, doc string) {
	g.comments[spec.Name.Name] = line(doc)
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		text := line(f.Comment.Text())
		if text == "" {
			text = line(f.Doc.Text())
		}
		for _, name := range f.Names {
			g.comments[spec.Name.Name+"."+name.Name] = text
		}
	}
}

func line(text string) string { return strings.Join(strings.Fields(text), " ") }

// object is the schema of a struct.
func (g *schemas) object(t *testing.T, typ reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	g.fields(t, typ, properties, &required)
	s := map[string]any{"type": "object", "properties": properties, "required": required}
	if text := g.comments[typ.Name()]; text != "" {
		s["description"] = text
	}
	return s
}

// fields adds a struct's fields, those of embedded structs among them.
func (g *schemas) fields(t *testing.T, typ reflect.Type, properties map[string]any, required *[]string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case f.Anonymous && name == "":
			g.fields(t, f.Type, properties, required)
			continue
		case name == "":
			t.Fatalf("%s.%s has no name in JSON", typ, f.Name)
		}
		s := g.schema(t, f.Type)
		if text := g.comments[typ.Name()+"."+f.Name]; text != "" {
			s["description"] = text
		}
		properties[name] = s
		if options != "omitempty" {
			*required = append(*required, name)
		}
	}
}

// schema is that of a value.
func (g *schemas) schema(t *testing.T, typ reflect.Type) map[string]any {
	switch typ {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "contentEncoding": "base64"}
	case reflect.TypeFor[netip.Addr]():
		return map[string]any{"type": "string"} // "" for none
	}
	switch typ.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.schema(t, typ.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.schema(t, typ.Elem())}
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{g.schema(t, typ.Elem()), map[string]any{"type": "null"}}}
	case reflect.Struct:
		if _, ok := g.defs[typ.Name()]; !ok {
			g.defs[typ.Name()] = nil // it may be in itself
			g.defs[typ.Name()] = g.object(t, typ)
		}
		return map[string]any{"$ref": path.Join("#/$defs", typ.Name())}
	}
	t.Fatalf("there is no schema for %s", typ)
	return nil
}
