{{/*
The native sidecar: the one definition of it. Charts that depend on this one include its parts, the admission policy
writes it as CEL (injection.yaml), and the patches of k8s/kustomize are rendered from it.

For a chart that depends on this one, in a pod's template:

    spec:
      securityContext:
        supplementalGroups: {{- include "standpipe.sidecar.groups" .Subcharts.standpipe | nindent 10 }}
      initContainers:
        {{- include "standpipe.sidecar.container" .Subcharts.standpipe | nindent 8 }}
      containers:
        - name: app
          env: {{- include "standpipe.sidecar.env" .Subcharts.standpipe | nindent 12 }}
          volumeMounts: {{- include "standpipe.sidecar.mount" .Subcharts.standpipe | nindent 12 }}
      volumes:
        {{- include "standpipe.sidecar.volumes" .Subcharts.standpipe | nindent 8 }}

and, as a manifest of its own, the settings:

    {{ include "standpipe.sidecar.configmap" .Subcharts.standpipe }}
*/}}

{{/* The sidecar, as the first of a pod's init containers: a list of one. */}}
{{- define "standpipe.sidecar.container" -}}
{{- list (include "standpipe.sidecar.parts" (dict "root" . "from" (include "standpipe.sidecar.from" . | fromYaml)) | fromYaml).container | toYaml -}}
{{- end -}}

{{/* The pod's volumes that the sidecar needs: a list. */}}
{{- define "standpipe.sidecar.volumes" -}}
{{- (include "standpipe.sidecar.parts" (dict "root" . "from" (include "standpipe.sidecar.from" . | fromYaml)) | fromYaml).volumes | toYaml -}}
{{- end -}}

{{/* Where an application's container finds the socket: a list of one mount. */}}
{{- define "standpipe.sidecar.mount" -}}
{{- (include "standpipe.sidecar.parts" (dict "root" . "from" (include "standpipe.sidecar.from" . | fromYaml)) | fromYaml).mount | toYaml -}}
{{- end -}}

{{/* What tells an application's container of the socket: a list of one variable. */}}
{{- define "standpipe.sidecar.env" -}}
{{- (include "standpipe.sidecar.parts" (dict "root" . "from" (include "standpipe.sidecar.from" . | fromYaml)) | fromYaml).env | toYaml -}}
{{- end -}}

{{/* The groups in which an application's processes may open the socket: a list of one. */}}
{{- define "standpipe.sidecar.groups" -}}
{{- list ((include "standpipe.sidecar.parts" (dict "root" . "from" (include "standpipe.sidecar.from" . | fromYaml)) | fromYaml).group | int) | toYaml -}}
{{- end -}}

{{/* The ConfigMap with the sidecar's settings, for a chart that includes it. */}}
{{- define "standpipe.sidecar.configmap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "standpipe.metadata" (dict "root" . "component" "sidecar") | nindent 2 }}
data:
  config.yaml: |
    {{- include "standpipe.sidecar.settings" (dict "root" . "settings" dict) | trim | nindent 4 }}
{{- end -}}

{{/* A sidecar's settings, with those of one namespace over the release's. A sidecar in every pod has no business with
the schema: `standpipe migrate` brings it up. */}}
{{- define "standpipe.sidecar.settings" -}}
{{- $all := dict "record_migrate" false -}}
{{- range $name, $value := include "standpipe.config" (dict "root" .root "component" "sidecar" "values" .root.Values.injection) | fromYaml }}
{{- $_ := set $all $name $value }}
{{- end -}}
{{- range $name, $value := .settings }}{{- $_ := set $all $name $value }}{{- end -}}
{{- range $name, $value := $all }}
{{- if kindIs "float64" $value }}{{- $value = $value | int64 }}{{- end }}
{{ $name }}: {{ toJson $value }}
{{- end }}
{{- end -}}

{{/* Whether a sidecar computes on a GPU. */}}
{{- define "standpipe.sidecar.gpu" -}}
{{- with .Values.injection.gpu }}{{- if or .resourceName .claims }}true{{ end }}{{ end -}}
{{- end -}}

{{/* What differs from sidecar to sidecar, for a chart that includes it: taken from the values. */}}
{{- define "standpipe.sidecar.from" -}}
image: {{ include "standpipe.imageOf" (dict "root" . "gpu" (not (empty (include "standpipe.sidecar.gpu" .)))) | quote }}
cpu: {{ .Values.injection.cpu | quote }}
memory: {{ .Values.injection.memory | quote }}
configMap: {{ include "standpipe.componentName" (dict "root" . "component" "sidecar") | quote }}
files: {{ .Values.injection.secret | quote }}
tls: {{ .Values.embedderClient.existingSecret | default .Values.injection.secret | quote }}
record: {{ include "standpipe.sidecar.secret" (list . .Values.record "record") }}
hot: {{ include "standpipe.sidecar.secret" (list . .Values.hot "hot") }}
keys: {{ include "standpipe.sidecar.secret" (list . .Values.encryption "standpipe.keys") }}
{{- end -}}

{{- define "standpipe.sidecar.secret" -}}
{{- $values := (index . 0).Values -}}
{{- with index . 1 -}}
{{- if .existingSecret -}}
{{ dict "name" .existingSecret "key" .key | toJson }}
{{- else -}}
{{ dict "name" $values.injection.secret "key" (index $ 2) | toJson }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where a Secret's certificates are. */}}
{{- define "standpipe.sidecar.certificates" -}}
- {key: ca.crt, path: tls/ca.crt}
{{- if or (eq .from.files .from.tls) .root.Values.embedderClient.certificate }}
- {key: tls.crt, path: tls/tls.crt}
- {key: tls.key, path: tls/tls.key}
{{- end }}
{{- end -}}

{{/* The whole of it, as one mapping: container, volumes, mount, env. Takes root, the chart's context, and from. */}}
{{- define "standpipe.sidecar.parts" -}}
{{- $values := .root.Values -}}
{{- $from := .from -}}
{{- $gpu := include "standpipe.sidecar.gpu" .root -}}
{{- $given := merge (dict) ($values.injection.settings | default dict) ($values.settings | default dict) -}}
{{- $keys := not (or $values.encryption.plaintext (hasKey $given "encryption_keys_command")) -}}
container:
  name: standpipe
  image: {{ $from.image | quote }}
  imagePullPolicy: {{ (ternary $values.gpuImage $values.image (not (empty $gpu))).pullPolicy }}
  restartPolicy: Always
  args: [serve]
  env:
    - name: STANDPIPE_CONFIG
      value: /etc/standpipe/config.yaml
    - name: STANDPIPE_LISTEN
      value: unix:/run/standpipe/standpipe.sock,127.0.0.1:7460
    - name: STANDPIPE_HTTP
      value: {{ printf "%s:7461" (ternary "[::]" $values.bindAddress (eq $values.bindAddress "::")) | quote }}
    {{- if $values.encryption.plaintext }}
    - name: STANDPIPE_PLAINTEXT
      value: "true"
    {{- else if $keys }}
    - name: STANDPIPE_ENCRYPTION_KEYS_FILE
      value: /etc/standpipe/keys/standpipe.keys
    {{- end }}
    {{- if $gpu }}
    - name: STANDPIPE_DEVICE
      value: gpu
    {{- end }}
    - name: STANDPIPE_RECORD
      valueFrom:
        secretKeyRef: {{ $from.record | toJson }}
    - name: STANDPIPE_HOT
      {{- if and $values.hot.address (not $values.hot.existingSecret) }}
      value: {{ $values.hot.address | quote }}
      {{- else }}
      valueFrom:
        secretKeyRef: {{ $from.hot | toJson }}
      {{- end }}
  ports:
    - name: standpipe-http
      containerPort: 7461
      protocol: TCP
  {{- /* The application starts when this one has its model and its socket. */}}
  startupProbe:
    httpGet: {path: /startupz, port: 7461, scheme: HTTP}
    periodSeconds: 1
    failureThreshold: 60
    timeoutSeconds: 1
    successThreshold: 1
  readinessProbe:
    httpGet: {path: /readyz, port: 7461, scheme: HTTP}
    periodSeconds: 5
    failureThreshold: 2
    timeoutSeconds: 1
    successThreshold: 1
  livenessProbe:
    httpGet: {path: /livez, port: 7461, scheme: HTTP}
    periodSeconds: 10
    failureThreshold: 3
    timeoutSeconds: 2
    successThreshold: 1
  resources:
    requests:
      cpu: {{ $from.cpu | quote }}
      memory: {{ $from.memory | quote }}
      ephemeral-storage: 16Mi
    limits:
      memory: {{ $from.memory | quote }}
      ephemeral-storage: 64Mi
      {{- with $values.injection.gpu.resourceName }}
      {{ . }}: "1"
      {{- end }}
    {{- with $values.injection.gpu.claims }}
    claims: {{- toYaml . | nindent 6 }}
    {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  terminationMessagePath: /dev/termination-log
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: standpipe-socket
      mountPath: /run/standpipe
    - name: standpipe-config
      mountPath: /etc/standpipe
      readOnly: true
volumes:
  - name: standpipe-socket
    emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- /* Root owns these files, and no group of the pod's does where it has no fsGroup: everybody must be able to read
  them, and of everybody this container alone has them. */}}
  - name: standpipe-config
    projected:
      defaultMode: 0444
      sources:
        - configMap:
            name: {{ $from.configMap | quote }}
            items: [{key: config.yaml, path: config.yaml}]
        {{- if $keys }}
        - secret:
            name: {{ $from.keys.name | quote }}
            items: [{key: {{ $from.keys.key | quote }}, path: keys/standpipe.keys}]
        {{- end }}
        - secret:
            name: {{ $from.files | quote }}
            optional: true
            items:
              - {key: tokens, path: auth/tokens}
              {{- if eq $from.files $from.tls }}
              {{- include "standpipe.sidecar.certificates" . | nindent 14 }}
              {{- else }}
        - secret:
            name: {{ $from.tls | quote }}
            items:
              {{- include "standpipe.sidecar.certificates" . | nindent 14 }}
              {{- end }}
mount:
  - name: standpipe-socket
    mountPath: /run/standpipe
env:
  - name: STANDPIPE_TARGET
    value: unix:/run/standpipe/standpipe.sock
group: 10001
{{- end -}}
