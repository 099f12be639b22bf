{{/*
CEL, written from the same values as YAML: what a template of a container gives is what an admission policy injects.
*/}}

{{/*
A value as a literal of CEL. Takes type, such as Object.spec.initContainers, and value. Mappings are objects of their
field's type, but for those whose keys are the user's. A text "@NAME@" is the parameter of that name.
*/}}
{{- define "standpipe.cel" -}}
{{- $type := .type -}}
{{- $value := .value -}}
{{- $parts := list -}}
{{- if kindIs "map" $value -}}
  {{- $free := has (last (splitList "." $type)) (list "requests" "limits") -}}
  {{- range $name, $each := $value -}}
    {{- $field := ternary (toRawJson $name) $name $free -}}
    {{- $parts = append $parts (printf "%s: %s" $field (include "standpipe.cel" (dict "type" (printf "%s.%s" $type $name) "value" $each))) -}}
  {{- end -}}
  {{- printf "%s{%s}" (ternary "" $type $free) (join ", " $parts) -}}
{{- else if kindIs "slice" $value -}}
  {{- range $each := $value -}}
    {{- $parts = append $parts (include "standpipe.cel" (dict "type" $type "value" $each)) -}}
  {{- end -}}
  {{- printf "[%s]" (join ", " $parts) -}}
{{- else if kindIs "string" $value -}}
  {{- if regexMatch "^@[a-z]+@$" $value -}}
    {{- printf "string(params.data.%s)" (trimAll "@" $value) -}}
  {{- else -}}
    {{- toRawJson $value -}}
  {{- end -}}
{{- else if kindIs "bool" $value -}}
  {{- $value -}}
{{- else -}}
  {{- int64 $value -}}
{{- end -}}
{{- end -}}
