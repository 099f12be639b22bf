{{/*
What a component's config.yaml holds: what the chart knows by itself, then `settings`, then the component's `settings`.
*/}}

{{/* UNIT: the settings that the values give, without those that say nothing to the component. */}}
{{- define "standpipe.given" -}}
{{- $given := deepCopy .root.Values.settings -}}
{{- range $name, $value := .values.settings }}{{- $_ := set $given $name $value }}{{- end -}}
{{- if eq .component "embedder" -}}
{{- $given = omit $given "embedder_fallback" "record" "tenant" "project" "record_migrate" -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/*
The chart's context: what whoever asks for vectors has to know of this release: where the embedder is, what it computes
in (a GPU's serves fp16, and who asks it must ask for that), and whether workers do what comes behind the commits.
*/}}
{{- define "standpipe.clientSettings" -}}
{{- if .Values.worker.enabled }}
project: false
{{- end }}
{{- with include "standpipe.embedderAddresses" . }}
embedder_address: {{ . }}
{{- end }}
{{- if and .Values.embedder.enabled .Values.embedder.gpu.enabled }}
precision: fp16
{{- end }}
{{- end -}}

{{/* UNIT: the settings that the chart gives by itself, as YAML. */}}
{{- define "standpipe.derived" -}}
{{- $values := .root.Values -}}
{{- $bind := ternary "[::]" $values.bindAddress (eq $values.bindAddress "::") -}}
http: {{ printf "%s:7461" $bind | quote }}
{{- if eq .component "sidecar" }}
listen: ["unix:/run/standpipe/standpipe.sock", "127.0.0.1:7460"]
{{- else if ne .component "worker" }}
listen: [{{ printf "%s:7460" $bind | quote }}]
{{- end }}
{{- if include "standpipe.opensStores" . }}
{{- $client := include "standpipe.clientSettings" .root | fromYaml }}
{{- with ternary (omit $client "project") $client (eq .component "worker") }}
{{ toYaml . }}
{{- end }}
{{- if $values.migration.enabled }}
record_migrate: false
{{- end }}
{{- if $values.encryption.existingSecret }}
encryption_keys_file: /etc/standpipe/keys/standpipe.keys
{{- else if $values.encryption.plaintext }}
plaintext: true
{{- end }}
{{- if $values.embedderClient.existingSecret }}
{{- /* A sidecar's namespace is another: its own secret has these. */}}
{{- $at := ternary "/etc/standpipe/tls" "/etc/standpipe/embedder-tls" (eq .component "sidecar") }}
embedder_ca_file: {{ $at }}/ca.crt
{{- if $values.embedderClient.certificate }}
embedder_cert_file: {{ $at }}/tls.crt
embedder_key_file: {{ $at }}/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- if include "standpipe.gpu" . }}
device: gpu
precision: fp16
{{- end }}
{{- with .values.tls }}
{{- if .existingSecret }}
tls_cert_file: /etc/standpipe/tls/tls.crt
tls_key_file: /etc/standpipe/tls/tls.key
{{- if .clientCertificates }}
tls_client_ca_file: /etc/standpipe/tls/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- if eq .component "shared" }}
{{- with .values.auth }}
{{- if eq .mode "tokens" }}
auth_token_file: /etc/standpipe/auth/tokens
{{- else if has .mode (list "jwks" "review") }}
{{- if eq .mode "jwks" }}
auth_jwks: {{ .jwks | quote }}
auth_issuer: {{ .issuer | quote }}
{{- else }}
auth_review: {{ .review | quote }}
{{- end }}
auth_audience: {{ .audience | quote }}
{{- if include "standpipe.asksCluster" $ }}
auth_ca_file: /var/run/secrets/standpipe-api/ca.crt
auth_api_token_file: /var/run/secrets/standpipe-api/token
{{- end }}
{{- end }}
{{- end }}
{{- if or .values.tenants .values.tenantsConfigMap }}
tenants_file: /etc/standpipe/tenants/tenants.yaml
{{- end }}
{{- end }}
{{- if and (eq .component "worker") .values.extraction.enabled }}
extractor_url: {{ .values.extraction.url | quote }}
extractor_model: {{ .values.extraction.model | quote }}
{{- if .values.extraction.existingSecret }}
extractor_key_file: /etc/standpipe/extractor/key
{{- end }}
{{- end }}
{{- end -}}

{{/* The chart's context: where embedders are asked: those that are named, else this release's own. As a list in one line. */}}
{{- define "standpipe.embedderAddresses" -}}
{{- if .Values.embedderClient.addresses -}}
{{- toJson .Values.embedderClient.addresses -}}
{{- else if .Values.embedder.enabled -}}
{{- $name := include "standpipe.componentName" (dict "root" . "component" "embedder") -}}
{{- list (printf "%s.%s.svc:7460" $name .Release.Namespace) | toJson -}}
{{- end -}}
{{- end -}}

{{/* UNIT: config.yaml. */}}
{{- define "standpipe.config" -}}
{{- $all := include "standpipe.derived" . | fromYaml -}}
{{- range $name, $value := include "standpipe.given" . | fromYaml }}{{- $_ := set $all $name $value }}{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* UNIT: the ConfigMap of a component. */}}
{{- define "standpipe.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "standpipe.metadata" . | nindent 2 }}
data:
  config.yaml: |
    {{- include "standpipe.config" . | nindent 4 }}
{{- end -}}

{{/* UNIT of the shared component: whether it asks the cluster's API server about tokens, or for the keys of them. */}}
{{- define "standpipe.asksCluster" -}}
{{- $auth := .values.auth -}}
{{- if and $auth.clusterCredentials (or (eq $auth.mode "review") (and (eq $auth.mode "jwks") (hasPrefix "https:" $auth.jwks))) -}}true{{- end -}}
{{- end -}}

{{/* UNIT: what callers are known by. Empty for all but the shared component. */}}
{{- define "standpipe.authVolumes" -}}
{{- if eq .component "shared" }}
{{- $auth := .values.auth }}
{{- if eq $auth.mode "tokens" }}
- name: standpipe-auth
  secret:
    secretName: {{ $auth.existingSecret }}
    defaultMode: 0440
    items:
    - key: {{ $auth.key }}
      path: tokens
{{- end }}
{{- if include "standpipe.asksCluster" . }}
- name: standpipe-api
  projected:
    defaultMode: 0440
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3600
    - configMap:
        name: kube-root-ca.crt
        items:
        - key: ca.crt
          path: ca.crt
{{- end }}
{{- if or .values.tenants .values.tenantsConfigMap }}
- name: standpipe-tenants
  configMap:
    name: {{ .values.tenantsConfigMap | default (printf "%s-tenants" (include "standpipe.componentName" .)) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "standpipe.authVolumeMounts" -}}
{{- if eq .component "shared" }}
{{- $auth := .values.auth }}
{{- if eq $auth.mode "tokens" }}
- name: standpipe-auth
  mountPath: /etc/standpipe/auth
  readOnly: true
{{- end }}
{{- if include "standpipe.asksCluster" . }}
- name: standpipe-api
  mountPath: /var/run/secrets/standpipe-api
  readOnly: true
{{- end }}
{{- if or .values.tenants .values.tenantsConfigMap }}
- name: standpipe-tenants
  mountPath: /etc/standpipe/tenants
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}
